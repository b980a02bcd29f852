"""The looks of report.html: wide or narrow, light or dark."""

import html

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --card: #f6f7f9; --ink: #1f2328; --soft: #667080;
  --line: #dfe3e8; --bar: #d7e3f1; --truth: #b5dec1; --best: #e3f1e6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --card: #1c2127; --ink: #e4e7eb; --soft: #97a1ae;
    --line: #313842; --bar: #2b4159; --truth: #2c6341; --best: #1e3a29;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .2rem; }
h3 { font-size: .8rem; margin: 1.2rem 0 .4rem; }
p { color: var(--soft); margin: .2rem 0 .9rem; max-width: 46rem; }
code, pre { font: 12px/1.45 ui-monospace, Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--soft); }
pre {
  background: var(--card); border-radius: 8px; padding: 1rem; overflow-x: auto;
}
small { color: var(--soft); font-size: .72rem; line-height: 1.25; }
.scroll { overflow-x: auto; }

table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; font-weight: 400; }
td small { display: block; }
thead th { font-weight: 600; vertical-align: bottom; }
tbody th { text-align: left; color: var(--soft); }
.about th {
  color: var(--ink); font-weight: 600; padding-top: .8rem; line-height: 1.3;
  border-top: 1px solid var(--line);
}
.about span {
  display: block; font-weight: 400; font-size: .8rem; color: var(--soft);
}
.chance { color: var(--soft); }
.best { background: var(--best); font-weight: 600; border-radius: 6px; }

article {
  display: flex; flex-wrap: wrap; gap: .6rem 1.4rem; padding: .8rem 1rem 1rem;
  margin: 0 0 .8rem; background: var(--card); border-radius: 10px;
}
.group h3 {
  margin: 0 0 .3rem; padding-bottom: .15rem;
  border-bottom: 1px solid var(--line);
}
.tiles { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; }
.tiles figure { width: 118px; display: flex; flex-direction: column; }
.tiles .wide { width: 250px; }
.tiles .wide figcaption { min-height: 0; }
.tiles figcaption {
  font-size: .72rem; line-height: 1.25; color: var(--soft); min-height: 2.9em;
  display: flex; align-items: flex-end; padding-bottom: .2rem;
}
img { display: block; width: 100%; height: auto; }
.tiles img { border-radius: 4px; margin-bottom: .2rem; }
ol { list-style: none; margin: 0; padding: 0; font-size: .76rem; }
li {
  position: relative; display: flex; gap: .5rem; padding: .06rem .35rem;
  margin-bottom: 2px; min-width: 0;
}
li i {
  position: absolute; inset: 0 auto 0 0; background: var(--bar);
  border-radius: 3px;
}
li b {
  position: relative; flex: 1; font-weight: 400; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap;
}
.wraps b { white-space: normal; }
li span { position: relative; color: var(--soft); }
.truth b { font-weight: 700; }
.truth i { background: var(--truth); }

.curves {
  display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(230px, 1fr));
}
.curves figure {
  background: var(--card); border-radius: 8px; padding: .5rem .6rem .3rem;
}
.curves figcaption {
  display: flex; justify-content: space-between; gap: .5rem; min-width: 0;
}
.curves code { overflow: hidden; text-overflow: ellipsis; }
.curves span { color: var(--soft); font-size: .76rem; }

@media (max-width: 620px) {
  main { padding: 1rem .7rem 3rem; }
  th, td { padding: .3rem .22rem; font-size: .8rem; }
  table { width: 100%; }
  article { padding: .7rem .7rem .9rem; }
  .group { width: 100%; }
  .tiles figure { width: calc(50% - .25rem); }
  .tiles .wide { width: 100%; }
  .curves { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
"""


def page(title: str, body: str, more: str = '') -> str:
  """A whole page, self-contained; nothing in it points to another file.

  Args:
    body: HTML. more: CSS beside STYLE.
  """
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}{more}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
