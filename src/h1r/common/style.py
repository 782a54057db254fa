"""The style sheet of every page: the reports and that of `h1r serve`. Plots take their colours from here too."""

from __future__ import annotations

COLOURS = {
    "ink": ("#1d2129", "#e7e9ee"),
    "soft": ("#5c6470", "#a2abb8"),
    "grid": ("#dfe2e7", "#333a45"),
    "panel": ("#fffffe", "#171b22"),
    "base": ("#85898f", "#8f96a1"),
    "sft": ("#0072b2", "#56b4e9"),
    "rl": ("#d55e00", "#ff9350"),
    "bad": ("#b04b00", "#ff9350"),
    "good": ("#007550", "#2cc79a"),
    "majority": ("#a8588b", "#dd93c3"),
    "deepconf": ("#00875f", "#2cc79a"),
}
"""Of each name, in light and in dark. Series have Okabe and Ito's, told apart with any common colour vision; `good`
and `bad` are those of DeepConf and RL, dark enough for text."""


def _variables(scheme: int) -> str:
    return "".join(f"--{name}:{pair[scheme]};" for name, pair in COLOURS.items())


CSS = (
    ":root{color-scheme:light dark;--paper:#f6f7f9;--doubt:213,94,0;"
    + _variables(0)
    + "}@media (prefers-color-scheme:dark){:root{--paper:#0f1217;--doubt:255,147,80;"
    + _variables(1)
    + "}}"
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.55;
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}
main{max-width:1080px;margin:0 auto;padding:2rem 1.25rem 4rem}
p{max-width:46rem;margin:.6rem 0}
a{color:var(--sft)}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.2;margin:.1rem 0 .4rem;letter-spacing:-.015em}
h2{font-size:1.35rem;line-height:1.3;margin:0 0 .5rem;letter-spacing:-.01em}
h3{font-size:1.02rem;line-height:1.35;margin:1.6rem 0 .4rem}
h4{font-size:.92rem;margin:0}
.soft,figcaption,caption{color:var(--soft)}
.small,figcaption{font-size:.88rem}
.eyebrow{color:var(--soft);font-size:.85rem;letter-spacing:.04em;margin:0}
.lead{font-size:1.12rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:1.2rem 0 0;font-size:.92rem}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
section{margin-top:3rem;padding-top:1.6rem;border-top:1px solid var(--grid)}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.4rem 0 .8rem}
.card{flex:1 1 13rem;background:var(--panel);border:1px solid var(--grid);border-top:4px solid var(--grid);
 border-radius:10px;padding:.7rem .9rem}
.card b{display:block;
 font-size:1.25rem;line-height:1.5;white-space:nowrap;font-variant-numeric:tabular-nums;letter-spacing:-.02em}
.card span{display:block;color:var(--soft);font-size:.85rem;line-height:1.4}
.card .what{color:var(--ink);font-size:.9rem}
.card.base{border-top-color:var(--base)}.card.sft{border-top-color:var(--sft)}.card.rl{border-top-color:var(--rl)}
.card.deepconf{border-top-color:var(--deepconf)}
.notice{background:var(--panel);border:1px solid var(--grid);border-left:4px solid var(--rl);border-radius:6px;
 padding:.6rem 1rem;margin:1.2rem 0;max-width:none}
.notice ul{margin:.3rem 0;padding-left:1.2rem}
figure{margin:1.2rem 0 0;background:var(--panel);border:1px solid var(--grid);border-radius:10px;padding:1rem}
figcaption{margin-top:.7rem;max-width:60rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:1.2rem;align-items:start}
.pair h4,.grid h4{margin-bottom:.3rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17.5rem),1fr));gap:1rem}
.narrow{max-width:34rem}
.spot{fill:transparent}.spot:hover{fill:var(--ink);fill-opacity:.1}
svg{display:block;width:100%;height:auto}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif!important}
.scroll{overflow-x:auto;margin:.8rem 0;max-width:100%}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:min(100%,24rem);overflow-wrap:normal}
th,td{text-align:left;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
th{color:var(--soft);font-weight:600}
.n{text-align:right}
td.n{white-space:nowrap}
.said{min-width:14rem}
.track{display:flex;width:100%;min-width:8rem;height:.7rem;margin-top:.35rem;background:var(--grid);border-radius:3px;overflow:hidden}
.track span{height:100%}
.kept{background:var(--sft)}.cut{background:var(--rl)}.time{background:var(--deepconf)}
.key{display:inline-block;width:.8rem;height:.7rem;border-radius:2px}
details{margin:.8rem 0}
summary{cursor:pointer;color:var(--sft);padding:.15rem 0}
.example{background:var(--panel);border:1px solid var(--grid);border-radius:10px;padding:.9rem 1rem;margin:1rem 0}
.example>details{margin:0}.example>details>summary{color:var(--ink)}
.example h3{margin:0 0 .5rem}.tag,h4 .small{font-weight:400}
.tag{display:inline-block;font-size:.8rem;border:1px solid var(--grid);border-radius:99px;padding:.05rem .6rem;
 color:var(--soft);margin-right:.4rem}
.tag.good{color:var(--good);border-color:currentColor}.tag.bad{color:var(--bad);border-color:currentColor}
.question{white-space:pre-wrap;border-left:3px solid var(--grid);padding-left:.8rem;margin:.5rem 0;max-width:none}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1rem;margin-top:.8rem}
.answers>div{border-top:3px solid var(--grid);padding-top:.5rem;min-width:0}
.answers>.base{border-color:var(--base)}.answers>.sft{border-color:var(--sft)}.answers>.rl{border-color:var(--rl)}
.answers>.deepconf{border-color:var(--deepconf)}
.trace,pre{font:13px/1.65 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre-wrap;
 overflow-wrap:anywhere;margin:.5rem 0 0}
.trace span,.legend i,.track span,.key{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.trace span{border-radius:2px;padding:.12em 0}
.skip{color:var(--soft);font-style:italic}
pre{background:var(--panel);border:1px solid var(--grid);border-radius:8px;padding:.8rem 1rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em}
.legend{display:flex;flex-wrap:wrap;align-items:center;gap:.15rem .5rem;font-size:.88rem;color:var(--soft);
 margin:.8rem 0}
.legend .ramp{display:flex}.legend i{width:1.7rem;height:1.1rem;border:1px solid var(--grid)}
footer{margin-top:3rem;color:var(--soft);font-size:.88rem}
@media (max-width:32rem){main{padding:1.2rem .9rem 3rem}section{margin-top:2rem;padding-top:1.2rem}figure{padding:.7rem}
 .strip{grid-template-columns:none;grid-auto-flow:column;grid-auto-columns:min(85%,18rem);overflow-x:auto;
  scroll-snap-type:x proximity}.strip>*{scroll-snap-align:start}th{white-space:nowrap}
 table:has(.key) :is(th:has(.key),td:has(.track)){display:none}
 .card{flex-basis:40%}}
@media print{:root{color-scheme:light;"""
    + _variables(0)
    + """--paper:#fff}body{font-size:11pt}nav{display:none}main{max-width:none;padding:0}
 section{margin-top:1.5rem;padding-top:1rem}figure,.example,.card,tr{break-inside:avoid}h2,h3{break-after:avoid}
 .scroll{overflow:visible}details::details-content{content-visibility:visible;block-size:auto}}
"""
    + "".join(
        f".c{level}{{background:rgba(var(--doubt),{alpha})}}"
        for level, alpha in enumerate((0, 0.1, 0.2, 0.3, 0.4, 0.5))
    )
)
