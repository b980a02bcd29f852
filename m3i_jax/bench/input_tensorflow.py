"""tf.data's side of `bench input`: run by a Python that has TensorFlow.

  PYTHON input_tensorflow.py FOLDER

FOLDER/pictures.npz has `data` (uint8, all files one after the other), `ends`
(where each ends) and `boxes` [P, 2, 4]. Writes FOLDER/MODE.npy, the views that
each mode makes, then answers each line 'MODE THREADS PICTURES' on its standard
input by the seconds and the CPU seconds that they took. It stands alone: only
TensorFlow and NumPy need be installed beside it.
"""

import os
import sys
import time

import numpy as np

os.environ['CUDA_VISIBLE_DEVICES'] = '-1'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
import tensorflow as tf  # noqa: E402, it reads the environment

SIZE, BATCH = 224, 32


def equal(data, boxes):
  """As good as can be: accurate decoding, antialiased bicubic resizing."""
  image = tf.io.decode_jpeg(data, 3, dct_method='INTEGER_ACCURATE')
  views = []
  for box in tf.unstack(boxes):
    crop = tf.image.crop_to_bounding_box(image, *tf.unstack(box))
    view = tf.image.resize(crop, (SIZE, SIZE), 'bicubic', antialias=True)
    views.append(tf.cast(tf.clip_by_value(tf.round(view), 0, 255), tf.uint8))
  return tf.stack(views)


def fastest(data, boxes):
  """As fast as can be: only what a crop needs, four neighbours a pixel."""
  views = []
  for box in tf.unstack(boxes):
    crop = tf.io.decode_and_crop_jpeg(data, box, 3, dct_method='INTEGER_FAST')
    view = tf.image.resize(crop, (SIZE, SIZE), 'bilinear')
    views.append(tf.cast(tf.round(view), tf.uint8))
  return tf.stack(views)


MODES = {'equal': equal, 'fastest': fastest}


def batches(pictures, mode: str, threads: int):
  """Batches of views for ever, by so many threads."""
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  # Or batches would be made while others have their turn.
  options.experimental_optimization.inject_prefetch = False
  return iter(
    tf.data.Dataset.from_tensor_slices(pictures)
    .repeat()
    .map(MODES[mode], num_parallel_calls=threads, deterministic=True)
    .batch(BATCH)
    .with_options(options)
  )


def main(folder: str) -> None:
  stored = np.load(os.path.join(folder, 'pictures.npz'), allow_pickle=False)
  files = np.split(stored['data'], stored['ends'][:-1])
  files = [file.tobytes() for file in files]
  boxes = stored['boxes'].astype(np.int32)
  for mode, made in MODES.items():
    pairs = zip(files, boxes, strict=True)
    views = [made(data, box).numpy() for data, box in pairs]
    np.save(os.path.join(folder, f'{mode}.npy'), np.stack(views))
  print('ready', flush=True)
  running = {}
  for line in sys.stdin:
    mode, threads, count = line.split()
    if (mode, threads) not in running:
      running[mode, threads] = batches((files, boxes), mode, int(threads))
      next(running[mode, threads])
    begun = time.perf_counter(), time.process_time()
    for _ in range(int(count) // BATCH):
      next(running[mode, threads])
    seconds = time.perf_counter() - begun[0]
    print(seconds, time.process_time() - begun[1], flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
