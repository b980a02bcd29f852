"""Writes jobset.schema.json: what launch/gke_jobset.yaml may hold.

The Job's part is the strict JSON schema of Kubernetes 1.37 in the package
`kubernetes-validate` 1.37.0 (`pip install`, 108 MB), followed as far as the
file goes; every other field is known by its name alone. The JobSet's part has
the fields of v1alpha2 in kubernetes-sigs/jobset,
config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml.

  python tests/golden/make_jobset.py
"""

import json
import pathlib

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).parent
SCHEMAS = (
  pathlib.Path(kubernetes_validate.__file__).parent
  / 'kubernetes-json-schema/v1.37.0-local-strict'
)
STRINGS = {'type': 'object', 'additionalProperties': {'type': 'string'}}
NUMBER, STRING = {'type': 'integer'}, {'type': 'string'}


def followed(schema, value, definitions):
  """The schema as far as `value` has fields, names alone beyond."""
  if '$ref' in schema:
    schema = definitions[schema['$ref'].rpartition('/')[2]]
  schema = {k: v for k, v in schema.items() if k in (
    'type', 'enum', 'required', 'properties', 'items', 'oneOf',
    'additionalProperties')}  # fmt: skip
  if isinstance(value, dict) and 'properties' in schema:
    schema['properties'] = {
      name: followed(part, value[name], definitions) if name in value else {}
      for name, part in schema['properties'].items()
    }
  if isinstance(schema.get('additionalProperties'), dict):
    first = next(iter(value.values()), None)
    schema['additionalProperties'] = followed(
      schema['additionalProperties'], first, definitions
    )
  if 'items' in schema:
    first = value[0] if isinstance(value, list) and value else None
    schema['items'] = followed(schema['items'], first, definitions)
  return schema


def closed(required=(), **properties):
  return {
    'type': 'object', 'properties': properties, 'required': list(required),
    'additionalProperties': False,
  }  # fmt: skip


def jobset(job):
  rule = closed(
    ('action', 'name'), name=STRING,
    action={'enum': ['FailJobSet', 'RestartJobSet',
                     'RestartJobSetAndIgnoreMaxRestarts']},
    onJobFailureReasons={'type': 'array', 'items': STRING},
    targetReplicatedJobs={'type': 'array', 'items': STRING},
  )  # fmt: skip
  policy = closed(
    maxRestarts=NUMBER, rules={'type': 'array', 'items': rule},
    restartStrategy={'enum': ['Recreate', 'BlockingRecreate']},
  )  # fmt: skip
  replicated = closed(
    ('name', 'template'), dependsOn={}, groupName=STRING, name=STRING,
    replicas=NUMBER, template=closed(('spec',), metadata={}, spec=job),
  )  # fmt: skip
  return closed(
    ('apiVersion', 'kind', 'metadata', 'spec'),
    apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
    kind={'const': 'JobSet'},
    metadata=closed(('name',), name=STRING, namespace=STRING, labels=STRINGS,
                    annotations=STRINGS),
    spec=closed(
      coordinator={}, failurePolicy=policy, managedBy=STRING, network={},
      replicatedJobs={'type': 'array', 'items': replicated}, startupPolicy={},
      successPolicy={}, suspend={'type': 'boolean'},
      ttlSecondsAfterFinished=NUMBER,
    ),
  )  # fmt: skip


def main():
  text = (HERE.parents[1] / 'launch/gke_jobset.yaml').read_text()
  made = yaml.safe_load(text)
  job = made['spec']['replicatedJobs'][0]['template']['spec']
  definitions = json.loads((SCHEMAS / '_definitions.json').read_text())
  schema = json.loads((SCHEMAS / 'jobspec-batch-v1.json').read_text())
  schema = jobset(followed(schema, job, definitions['$defs']))
  path = HERE / 'jobset.schema.json'
  path.write_text(json.dumps(schema) + '\n')


if __name__ == '__main__':
  main()
