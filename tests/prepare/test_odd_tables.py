"""Tables as other programs write them: understood, or refused by name."""


from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import picture

OWL = picture(3, 'WEBP')


def _layout(tmp_path, name, content, **options):
  making.tree(tmp_path, {'owl.webp': OWL, name: content})
  return recognise(str(tmp_path / name), Options(**options))


def test_absolute_paths_into_the_own_folder(tmp_path):
  text = f'path\n{tmp_path}/owl.webp\n{tmp_path}x/owl.webp\n'
  layout = _layout(tmp_path, 't.csv', text)
  assert [item.image for item in making.items(layout)] == [OWL]
  ((_, reason),) = making.bad(layout)
  assert reason.startswith(f'path leads out of the folder: {tmp_path}x/')
