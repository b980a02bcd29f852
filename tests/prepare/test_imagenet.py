"""ImageNet's layouts: the same records from each, missing files by name."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import scipy.io

from m3i_jax.errors import UserError
from m3i_jax.prepare import groundtruth
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import picture

FISH, DOG, CUP = WNIDS = ('n01440764', 'n02085620', 'n03063599')
TRAIN = {
    f'{wnid}/{wnid}_{i}.JPEG': picture(10 * c + i, 'JPEG')
    for c, wnid in enumerate(WNIDS)
    for i in range(2)
}
VALIDATION = {
    f'ILSVRC2012_val_{i:08d}.JPEG': picture(100 + i, 'JPEG')
    for i in range(1, 5)
}
TRUTH = dict(zip(VALIDATION, (CUP, FISH, CUP, DOG), strict=True))


def _class_tars():
  return {
      f'{wnid}.tar': making.tar({
          os.path.basename(name): data
          for name, data in reversed(TRAIN.items())  # in no good order
          if name.startswith(wnid)
      })
      for wnid in reversed(WNIDS)
  }  # fmt: skip


def _devkit():
  """As image-net.org's: the synsets by ID, and IDs of the pictures."""
  ids = (DOG, CUP, FISH)  # not sorted, as there
  cells = b''.join(b'\x01\0\0\0' + wnid.encode() + b'\0words' for wnid in ids)
  packed = zlib.compress(cells)
  meta = bytes(128) + struct.pack('<II', 15, len(packed)) + packed
  truth = ''.join(f'{ids.index(wnid) + 1}\n' for wnid in TRUTH.values())
  inside = 'ILSVRC2012_devkit_t12/data/'
  return {
      inside + 'meta.mat': meta,
      inside + 'ILSVRC2012_validation_ground_truth.txt': truth.encode(),
  }


def _kaggle_list():
  rows = [f'{n[:-5]},{w} 1 2 3 4 {w} 5 6 7 8' for n, w in TRUTH.items()]
  return 'ImageId,PredictionString\n' + '\n'.join(rows)


def _official(root):
  return making.tree(root, {
      'ILSVRC2012_img_train.tar': making.tar(_class_tars()),
      'ILSVRC2012_img_val.tar': making.tar(VALIDATION),
      'ILSVRC2012_devkit_t12.tar.gz': making.tar(_devkit(), 'w:gz'),
  })  # fmt: skip


def _extracted(root):
  making.tree(root / 'train', TRAIN)
  return making.tree(root, {
      f'val/{TRUTH[name]}/{name}': data for name, data in VALIDATION.items()
  })  # fmt: skip


def _flat(root):
  """Extracted by someone who left the validation pictures as they were."""
  making.tree(root / 'train', TRAIN)
  making.tree(root / 'val', VALIDATION)
  return making.tree(root, _devkit())


def _kaggle(root):
  making.tree(root / 'ILSVRC/Data/CLS-LOC/train', TRAIN)
  making.tree(root / 'ILSVRC/Data/CLS-LOC/val', VALIDATION)
  return making.tree(root, {'LOC_val_solution.csv': _kaggle_list()})


def _kaggle_boxes(root):
  making.tree(root / 'ILSVRC/Data/CLS-LOC/train', TRAIN)
  making.tree(root / 'ILSVRC/Data/CLS-LOC/val', VALIDATION)
  return making.tree(root, {
      f'ILSVRC/Annotations/CLS-LOC/val/{name[:-5]}.xml':
          f'<annotation><object><name>{wnid}</name></object></annotation>'
      for name, wnid in TRUTH.items()
  })  # fmt: skip


@pytest.mark.parametrize(
    'make', [_official, _extracted, _flat, _kaggle, _kaggle_boxes]
)
def test_every_layout_gives_the_same_parts(tmp_path, make):
  layout = recognise(str(make(tmp_path)), Options(records=3))
  assert layout.kind == 'imagenet' and layout.classes == WNIDS
  assert not layout.captions
  parts = layout.splits['train']
  assert [part.key for part in parts] == list(WNIDS)
  found = [(item.id, item.label, item.image) for item in making.items(layout)]
  assert found == [
      (name, WNIDS.index(name[:9]), data) for name, data in TRAIN.items()
  ]
  parts = layout.splits['validation']
  assert [(part.key, part.size) for part in parts] == [
      ('000000', 3), ('000001', 1)
  ]  # fmt: skip
  items = making.items(layout, 'validation')
  assert [(item.id, item.label, item.image) for item in items] == [
      (name, WNIDS.index(TRUTH[name]), data)
      for name, data in VALIDATION.items()
  ]


def test_kaggle_from_within_and_its_test_pictures(tmp_path):
  root = _kaggle(tmp_path) / 'ILSVRC/Data/CLS-LOC'
  making.tree(root / 'test', {'ILSVRC2012_test_00000001.JPEG': picture(7)})
  layout = recognise(str(root), Options())
  assert making.brief(making.items(layout, 'test')) == [
      ('ILSVRC2012_test_00000001.JPEG', -1, ())
  ]
  assert making.items(layout, 'validation')[0].label == WNIDS.index(CUP)


def test_the_test_tar_has_no_labels(tmp_path):
  making.tree(_official(tmp_path), {
      'ILSVRC2012_img_test_v10102019.tar': making.tar(
          {'test/ILSVRC2012_test_00000001.JPEG': picture(7)}
      )
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert list(layout.splits) == ['train', 'validation', 'test']
  assert making.items(layout, 'test')[0].label == -1


@pytest.mark.parametrize('single', [True, False])
def test_22k_as_a_folder_of_tars_or_a_tar_of_tars(tmp_path, single):
  if single:
    making.tree(tmp_path, {'fall11_whole.tar': making.tar(_class_tars())})
    source = tmp_path / 'fall11_whole.tar'
  else:
    source = making.tree(tmp_path / 'fall11', _class_tars())
  layout = recognise(str(source), Options())
  assert list(layout.splits) == ['train'] and layout.classes == WNIDS
  found = [(item.id, item.label, item.image) for item in making.items(layout)]
  assert found == [
      (name, WNIDS.index(name[:9]), data) for name, data in TRAIN.items()
  ]


def test_22k_extracted_has_a_part_for_each_class(tmp_path):
  making.tree(tmp_path, TRAIN)
  layout = recognise(str(tmp_path), Options())
  assert [part.key for part in layout.splits['train']] == list(WNIDS)


def test_the_real_list_of_validation_labels_is_known(tmp_path):
  # TFDS brings it; these are its first two.
  making.tree(tmp_path, dict(list(VALIDATION.items())[:2]))
  layout = recognise(str(tmp_path), Options(split='validation'))
  assert layout.classes == ('n01751748', 'n09193705')
  assert [item.label for item in making.items(layout, 'validation')] == [0, 1]


@pytest.mark.parametrize(
    'name', ['ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar']
)
def test_a_missing_tar_is_named_with_its_size(tmp_path, name):
  (_official(tmp_path) / name).unlink()
  size = {'t': '147,897,477,120', 'v': '6,744,924,160'}[name[15]]
  with pytest.raises(UserError, match=rf'/{name} is missing \({size}'):
    recognise(str(tmp_path), Options())


@pytest.mark.parametrize('left', [0, 700, 2048, -10_240])
@pytest.mark.parametrize(
    'name', ['ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar']
)
def test_a_short_tar_is_named_with_its_size(tmp_path, name, left):
  path = _official(tmp_path) / name
  whole = path.read_bytes()
  path.write_bytes(whole[:left] if left >= 0 else whole.rstrip(b'\0')[:-1])
  with pytest.raises(UserError, match=rf'{name} is too short or damaged .* it '
                     r'has [\d,]+ bytes, the official one has [\d,]+: copy'):
    recognise(str(tmp_path), Options())


def test_a_short_tar_of_22k_is_named(tmp_path):
  making.tree(tmp_path, _class_tars())
  path = tmp_path / f'{DOG}.tar'
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(UserError, match=f'{DOG}.tar is too short: it has 1,000'):
    recognise(str(tmp_path), Options())


@pytest.mark.parametrize('make', [_official, _flat, _kaggle])
def test_labels_that_are_missing(tmp_path, make):
  root = make(tmp_path)
  for path in [*root.glob('ILSVRC2012_devkit*'), *root.glob('LOC*')]:
    path.rename(tmp_path.parent / f'{tmp_path.name}-{path.name}')
  with pytest.raises(UserError, match='no labels of the validation pictures .*'
                     r'put ILSVRC2012_devkit_t12\.tar\.gz .*LOC_val_solution'):
    recognise(str(root), Options())


def test_labels_of_some_pictures_only(tmp_path):
  root = _kaggle(tmp_path)
  path = root / 'LOC_val_solution.csv'
  path.write_text('\n'.join(path.read_text().split('\n')[:3]))
  with pytest.raises(UserError, match=r'has no label of 2 of the 4 .*00000003'):
    recognise(str(root), Options())


@pytest.mark.parametrize('lacking', ['meta.mat', 'validation_ground_truth.txt'])
def test_a_devkit_that_is_not_whole(tmp_path, lacking):
  root = _official(tmp_path)
  kept = {k: v for k, v in _devkit().items() if not k.endswith(lacking)}
  path = root / 'ILSVRC2012_devkit_t12.tar.gz'
  path.write_bytes(making.tar(kept, 'w:gz'))
  with pytest.raises(UserError, match=f'has no data/.*{lacking}'):
    recognise(str(root), Options())
  path.write_bytes(making.tar(_devkit(), 'w:gz')[:100])
  with pytest.raises(UserError, match=r'tar.gz is damaged \(cut short'):
    recognise(str(root), Options())


def test_a_truth_of_other_synsets(tmp_path):
  root = _flat(tmp_path)
  path = root / 'ILSVRC2012_devkit_t12/data'
  (path / 'ILSVRC2012_validation_ground_truth.txt').write_text('1\n2\n3\n4\n')
  with pytest.raises(UserError, match='does not fit meta.mat'):
    recognise(str(root), Options())


def test_wnids_of_a_matlab_file():
  file = io.BytesIO()
  kind = [('ILSVRC2012_ID', 'O'), ('WNID', 'O'), ('words', 'O')]
  synsets = np.array([(i, w, 'a cup') for i, w in enumerate(WNIDS)], kind)
  for packed in (True, False):
    file.seek(0)
    scipy.io.savemat(file, {'synsets': synsets}, do_compression=packed)
    assert groundtruth.wnids(file.getvalue()) == list(WNIDS)


@pytest.mark.parametrize('content', [b'\xff\0', b'"' + bytes(200_000)])
def test_a_list_of_labels_that_is_damaged(tmp_path, content):
  making.tree(_kaggle(tmp_path), {'LOC_val_solution.csv': content})
  with pytest.raises(UserError, match='LOC_val_solution.csv is damaged'):
    recognise(str(tmp_path), Options())


def test_a_file_of_classes_that_lacks_one(tmp_path):
  making.tree(tmp_path, {'names': f'{FISH}\n{CUP}\n'})
  root = making.tree(tmp_path / 'tars', _class_tars())
  with pytest.raises(UserError, match=f'--classes=.*names lacks {DOG} of'):
    recognise(str(root), Options(classes=str(tmp_path / 'names')))


def test_damage_within_a_tar_of_a_class(tmp_path):
  tars = _class_tars()
  broken = bytearray(tars[f'{DOG}.tar'])
  broken[broken.rindex(b'n02085620_0')] ^= 1  # the second header
  tars[f'{DOG}.tar'] = bytes(broken)
  tars[f'{CUP}.tar'] = making.tar({
      '../a.JPEG': picture(1), 'b.JPEG': {'type': b'2', 'linkname': '/x'},
      'c.txt': b'?',
  })  # fmt: skip
  layout = recognise(str(making.tree(tmp_path, tars)), Options())
  assert [item.id for item in making.items(layout)] == [
      f'{FISH}/{FISH}_0.JPEG', f'{FISH}/{FISH}_1.JPEG', f'{DOG}/{DOG}_1.JPEG'
  ]  # fmt: skip
  reasons = [reason.split(' at byte')[0] for _, reason in making.bad(layout)]
  assert reasons == [
      'tar damaged: no header of a member',
      'unsafe member: path leads out',
      'unsafe member: symbolic link',
      'no picture: c.txt',
  ]


def test_tars_that_vanish(tmp_path):
  layout = recognise(str(_official(tmp_path)), Options())
  for path in tmp_path.glob('*.tar'):
    path.unlink()
  reason = 'tar cannot be opened: no such file'
  assert making.bad(layout) == [(wnid, reason) for wnid in WNIDS]
  assert making.bad(layout, 'validation') == [
      (name, reason) for name in VALIDATION
  ]  # fmt: skip
