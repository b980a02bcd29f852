"""Makes a data set of pictures from whatever holds them.

  python -m m3i_jax.prepare SOURCE --out=DIR

SOURCE is a folder of pictures, of sub-folders named after labels, or of
train/, val/ and test/ with such; ImageNet's tars or folders; a CSV, TSV, JSONL
or Parquet file; webdataset or img2dataset tars; `tfds:NAME`. docs/data.md shows
each. DIR becomes a TFDS directory in ArrayRecord; use it with

  python -m m3i_jax.main --config=... --config.data=DIR

The same command goes on where an earlier one was stopped, and does nothing
where it has ended. Bad pictures are left out, and listed in
DIR/quarantine.jsonl.

Exit codes: 0 done; 1 too many bad pictures, or a process lost; 2 a mistake that
the printed line tells; 75 stopped, the same command goes on.
"""
