//! The frame of a page: style, figures with legends, tables.

use crate::Plain;
use crate::draw::{Ink, STYLE};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::fmt::Display;

/// Colours, sizes and places. The page has no script and loads nothing.
const LOOK: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#1a1d21;--soft:#555b63;--edge:#d5d9de;--tint:#f4f6f8}\
@media (prefers-color-scheme:dark){:root{--paper:#16181b;--ink:#e8eaed;--soft:#a9b0b8;--edge:#3a4047;--tint:#1f2327}}\
*{box-sizing:border-box}\
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}\
main{max-width:1120px;margin:0 auto;padding:16px 16px 48px}\
h1{font-size:1.6rem;line-height:1.25;margin:.6em 0 .3em;overflow-wrap:anywhere}\
h2{font-size:1.2rem;margin:2.2em 0 .3em;padding-top:.6em;border-top:1px solid var(--edge)}\
h3{font-size:1rem;margin:1.4em 0 .3em}\
p{max-width:75ch;margin:.5em 0}\
.lead{font-size:1.08rem}\
.soft,figcaption,summary{color:var(--soft)}\
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:20px 28px;margin:12px 0}\
.three{grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}\
figure{margin:0;min-width:0}\
figure h3{margin:0 0 .2em}\
figure svg{display:block;width:100%;height:auto;max-width:640px}\
figcaption{font-size:.9rem}\
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:2px 0 4px;padding:0;font-size:.85rem}\
.legend li{display:flex;align-items:center;gap:6px;min-width:0;overflow-wrap:anywhere}\
.mark{flex:none;width:14px;height:10px;border-radius:2px}\
.mark.dashed{-webkit-mask:repeating-linear-gradient(90deg,#000 0 5px,transparent 5px 8px);\
mask:repeating-linear-gradient(90deg,#000 0 5px,transparent 5px 8px);width:18px;height:4px}\
.wide{overflow-x:auto;margin:8px 0}\
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}\
caption{text-align:left;color:var(--soft);padding:2px 0}\
th,td{padding:4px 10px;border-bottom:1px solid var(--edge);text-align:right;vertical-align:top;white-space:nowrap}\
th:first-child,td:first-child,.text{text-align:left}\
td.text{overflow-wrap:anywhere;white-space:normal;min-width:7em}\
thead th{white-space:normal}\
thead th{border-bottom:2px solid var(--edge);font-weight:600}\
tr.best td,tr.best th{background:var(--tint);font-weight:600}\
pre{background:var(--tint);padding:10px 12px;border-radius:6px;overflow-x:auto;white-space:pre-wrap;\
overflow-wrap:anywhere;font:.88rem/1.5 ui-monospace,monospace}\
code{font:.92em ui-monospace,monospace;overflow-wrap:anywhere}\
details{margin:8px 0}summary{cursor:pointer}\
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:12px}\
.cards{padding:0;list-style:none}\
.cards li{border:1px solid var(--edge);border-radius:8px;padding:10px 12px;min-width:0;overflow-wrap:anywhere}\
.cards p{margin:.2em 0}\
svg rect{shape-rendering:crispEdges}svg polyline{stroke-linejoin:round}";

/// A whole page.
pub(super) fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Whatever a file's text holds, nothing is loaded and no script runs.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                // An icon of its own keeps browsers from asking for one.
                link rel="icon" href="data:,";
                title { (Plain(title)) }
                style { (PreEscaped(LOOK)) (PreEscaped(&*STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string() + "\n"
}

/// An entry of a legend: name, number of the colour, and whether its line is dashed.
pub(super) type Entry = (String, usize, bool);

/// A chart with its heading, legend and caption.
pub(super) fn figure(heading: &str, svg: &str, legend: &[Entry], caption: &str) -> Markup {
    html! {
        figure {
            h3 { (heading) }
            @if !legend.is_empty() {
                ul.legend {
                    @for (name, colour, dashed) in legend {
                        li {
                            span class=(mark(*colour, *dashed)) {}
                            (Plain(name))
                        }
                    }
                }
            }
            (PreEscaped(svg))
            figcaption { (caption) }
        }
    }
}

fn mark(colour: usize, dashed: bool) -> String {
    format!("mark b-{}{}", Ink::Series(colour).class(), if dashed { " dashed" } else { "" })
}

/// A table whose first column names the rows. `text` says which columns hold text, `best` which row stands out.
pub(super) fn table(
    caption: &str,
    head: &[&str],
    rows: &[Vec<String>],
    text: impl Fn(usize) -> bool,
    best: Option<usize>,
) -> Markup {
    let class = |column: usize| if text(column) { "text" } else { "" };
    html! {
        div.wide {
            table {
                caption { (caption) }
                thead {
                    tr {
                        @for (k, name) in head.iter().enumerate() {
                            th scope="col" class=[name_class(class(k))] { (name) }
                        }
                    }
                }
                tbody {
                    @for (number, row) in rows.iter().enumerate() {
                        tr class=[(best == Some(number)).then_some("best")] {
                            @for (k, cell) in row.iter().enumerate() {
                                td class=[name_class(class(k))] { (Plain(cell)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn name_class(class: &str) -> Option<&str> {
    Some(class).filter(|class| !class.is_empty())
}

/// A table that opens on a click.
pub(super) fn folded(summary: &str, content: &Markup) -> Markup {
    html! { details { summary { (summary) } (content) } }
}

/// A number with `digits`, or a dash.
pub(super) fn cell(x: Option<f64>, digits: usize) -> String {
    x.filter(|x| x.is_finite()).map_or_else(|| "–".into(), |x| format!("{x:.digits$}"))
}

/// A count with its noun.
pub(super) fn count(n: usize, one: &str, many: &str) -> impl Display {
    format!("{n} {}", if n == 1 { one } else { many })
}
