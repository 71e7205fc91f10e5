"""Style sheet of the page, self-contained, light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #22262b; --soft: #5a626b; --line: #dcdfe2; --shade: #f2f3f1; --link: #0b57a4;
  --get: #1c6b3c; --post: #0b57a4; --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16191d; --ink: #dfe3e7; --soft: #a0a8b0; --line: #343a41; --shade: #1f2429; --link: #8abdf5;
    --get: #7fce9c; --post: #8abdf5;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; text-size-adjust: 100%; background: var(--paper); color: var(--ink); }
body {
  display: grid; grid-template: "nav header" auto "nav main" 1fr / 17rem minmax(0, 1fr);
  max-width: 74rem; margin: 0 auto; font: 1rem/1.6 system-ui, sans-serif;
}
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 2px; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; padding: .5rem 1rem; background: var(--paper); z-index: 1; }
header { grid-area: header; padding: 2.5rem 1.5rem 0; }
nav {
  grid-area: nav; position: sticky; top: 0; height: 100vh; overflow-y: auto;
  padding: 2.5rem 1rem 2rem 1.5rem; font-size: .875rem;
}
nav ul { list-style: none; margin: 0 0 1.25rem; padding: 0; }
nav li a { display: block; padding: .2rem 0; color: inherit; text-decoration: none; overflow-wrap: anywhere; }
nav li a:hover { text-decoration: underline; }
nav .group { margin: 0; font-weight: 600; }
main { grid-area: main; padding: 0 1.5rem 6rem; }
main > section { margin-top: 3.5rem; }
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; }
h1 { margin: 0 0 .5rem; font-size: 2rem; }
h2 { margin: 0 0 .5rem; padding-bottom: .4rem; border-bottom: 1px solid var(--line); font-size: 1.5rem; }
h3 { margin: 3rem 0 .25rem; font-size: 1.2rem; }
h4 { margin: 1.75rem 0 .5rem; font-size: 1rem; }
p { max-width: 68ch; margin: .5rem 0; }
.soft { color: var(--soft); }
code, pre { font-family: var(--mono); font-size: .875em; }
code { overflow-wrap: anywhere; }
p code, td code, dd code { padding: .1em .3em; border-radius: 3px; background: var(--shade); }
pre {
  margin: .5rem 0; padding: .9rem 1rem; overflow-x: auto; line-height: 1.5;
  border-radius: 6px; background: var(--shade);
}
.path { font-family: var(--mono); font-size: .95rem; overflow-wrap: anywhere; }
.method { display: inline-block; min-width: 3.2em; font-weight: 700; font-family: var(--mono); font-size: .9em; }
.get { color: var(--get); }
.post { color: var(--post); }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
td code { white-space: nowrap; }
th:first-child { width: 24%; }
td:last-child { min-width: 16rem; }
summary { cursor: pointer; font-weight: 600; margin: 1.75rem 0 .5rem; }
dt { font-weight: 600; margin-top: .75rem; }
dd { margin: 0; max-width: 68ch; }
@media (max-width: 56rem) {
  body { display: block; }
  header { padding: 1.5rem 1.25rem 0; }
  nav { position: static; height: auto; padding: 1.5rem 1.25rem 0; }
  main { padding: 0 1.25rem 4rem; }
}
@media (max-width: 40rem) {
  h1 { font-size: 1.6rem; }
  table, tbody, tr, th, td { display: block; width: auto; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  th, td { padding: .1rem 0; border: 0; }
  th:first-child { width: auto; }
  td:last-child { min-width: 0; }
  td code { white-space: normal; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
}
@media print {
  nav, .skip { display: none; }
  body { display: block; }
}
"""
