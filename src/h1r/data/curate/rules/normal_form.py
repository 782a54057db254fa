r"""The normal form of a question: equal for two typesettings of one question, different for two questions.

What goes: case of words, spaces, sentence punctuation, quotation marks, kinds of minus, Unicode forms (full-width
digits, composed letters), LaTeX's delimiters, sizes, spacing and styles, braces around one token, fractions of two
tokens (`\frac{1}{2}` is `1/2`).
What stays: case of symbols, numbers, operators, relations, primes, factorials, brackets, commas inside brackets, words.

    tokens(text)        the tokens, in order: a word, a number, a symbol, a LaTeX command; of scripts without spaces, a
                        character; of letters that are no word (`ABC`, `xy` in a formula), each
    normal_form(text)   the tokens joined

A pass takes time linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_ALIASES = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), "\\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), "\\binom"),
    **dict.fromkeys(("le", "leq", "leqslant", "leqq"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant", "geqq"), "≥"),
    **dict.fromkeys(("ne", "neq"), "≠"),
    **dict.fromkeys(("lt",), "<"),
    **dict.fromkeys(("gt",), ">"),
    **dict.fromkeys(("cdot", "times", "ast"), "*"),
    **dict.fromkeys(("div",), "/"),
    **dict.fromkeys(("cdots", "ldots", "dots", "dotsc", "dotsb", "dotsm"), "…"),
    **dict.fromkeys(("to", "rightarrow", "longrightarrow"), "→"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("lbrace",), "⦃"),
    **dict.fromkeys(("rbrace",), "⦄"),
    **dict.fromkeys(("prime",), "′"),
    **dict.fromkeys(("circ", "degree"), "°"),
    **dict.fromkeys(("varnothing", "emptyset"), "∅"),
    **dict.fromkeys(("land", "wedge"), "∧"),
    **dict.fromkeys(("lor", "vee"), "∨"),
    **dict.fromkeys(("neg", "lnot"), "¬"),
    "cup": "∪", "cap": "∩", "setminus": "∖", "subset": "⊂", "subseteq": "⊆", "supset": "⊃", "supseteq": "⊇",
    "in": "∈", "notin": "∉", "infty": "∞", "pm": "±", "mp": "∓", "angle": "∠", "triangle": "△", "perp": "⊥",
    "parallel": "∥", "equiv": "≡", "approx": "≈", "cong": "≅", "sim": "∼", "sqrt": "√", "sum": "∑", "prod": "∏",
    "int": "∫", "partial": "∂", "nabla": "∇", "forall": "∀", "exists": "∃", "alpha": "α", "beta": "β", "gamma": "γ",
    "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ", "iota": "ι", "kappa": "κ",
    "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ",
    "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ",
    "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
}  # fmt: skip
_DRESS_NAMES = (
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle displaystyle textstyle limits "
    "nolimits text textrm textbf textit texttt textsf emph mathrm mathbf mathit mathsf mathtt operatorname mbox hbox "
    "quad qquad hspace vspace thinspace allowbreak linebreak newline noindent item hline centering label "
    "boldsymbol bm rm bf it underline"
)
_FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp gcd lcm max min lim det deg dim ker"
)

_FUNCTION_NAMES = frozenset(_FUNCTIONS.split())
_ALIASES |= {name: name for name in _FUNCTION_NAMES}
_DRESS = frozenset(_DRESS_NAMES.split())
"""Commands that say how something looks."""
_SYMBOLS = str.maketrans({
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": " ", "×": "*", "⋅": "*", "·": "*", "∙": "*", "÷": "/",
    "∕": "/", "⁄": "/", "⩽": "≤", "⩾": "≥", "’": "'", "‘": "'", "´": "'", "ˊ": "'", "“": '"', "”": '"', "„": '"',
    "«": '"', "»": '"', "「": '"', "」": '"', "『": '"', "』": '"', "º": "°", "ϕ": "φ", "ϵ": "ε", "µ": "μ", "，": ",",
    "；": ";", "：": ":", "。": ".", "、": ",", "？": "?", "！": "!", "∣": "|", "∗": "*", "⟶": "→", "\u00ad": None,
    "\u200b": None, "\u2060": None, "\ufeff": None, "″": "′′",
})  # fmt: skip
_SUPERSCRIPTS = {ord(sup): plain for sup, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True)}
_SUBSCRIPTS = {ord(sub): plain for sub, plain in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]++")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]++")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_RELATIONS = (("<=", "≤"), (">=", "≥"), ("!=", "≠"), ("**", "^"), ("...", "…"), ("->", "→"))
_THIN = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|\\;|~)(?=\d{3}(?!\d))")
_THOUSANDS = re.compile(r"(?<![\d,.(\[{])(\d{1,3}+)((?:,\d{3})++)(?![\d,])")
_QUOTED = re.compile(r"(?<![\w)\]}'])'([^'\n]{1,80})'(?![\w'])")
_HYPHEN = re.compile(r"(?<=[a-z]{2})-(?=[a-z]{3})")
_ROOT = re.compile(r"\\root\s{0,3}\{?([0-9A-Za-z]{1,6})\}?\s{0,3}\\of")
_FORMULA = re.compile(
    r"\$\$[^$]{1,2000}\$\$|\$[^$]{1,2000}\$|\\\((?:(?!\\\))[\s\S]){1,2000}|\\\[(?:(?!\\\])[\s\S]){1,2000}"
)
_PROSE = re.compile(r"(?<![a-zA-Z\\])[a-z]{4}")
_LETTERS = re.compile(r"\\(?:text|mathrm|mbox|operatorname)[a-z]{0,2}\s?\{[^{}]{0,200}\}|(?<![a-zA-Z\\])[a-zA-Z]{2,}+")
_DRAWING = re.compile(r"\[asy\](?:(?!\[/asy\])[\s\S])*+(?:\[/asy\])?+")
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(
    r"\\(?:begin|end)\{[^{}\s]{0,40}\}"
    r"|\\[A-Za-z]++\*?|\\."
    r"|\d++(?:\.\d++)?"
    rf"|[{_SPACELESS}]"
    rf"|(?:(?![{_SPACELESS}])[^\W\d_])++"
    r"|\S",
)
_LOWER, _CAPITALS = re.compile(r"(?<![a-zA-Z\\])[a-z]{2}"), re.compile("[A-Z]{3}")
_SHORT_NAMES = "am an as at be by do go he if in is it me my no of on or so to up us we"
_SHORT_WORDS = frozenset(_SHORT_NAMES.split())
_TWO_ARGUMENTS = frozenset((r"\frac", r"\binom"))
_BINDS = frozenset(("^", "_", "!", "′"))
_OPEN, _CLOSE = frozenset("([⦃"), frozenset(")]⦄")


def tokens(text: str) -> list[str]:
    """The tokens of the normal form."""
    plain = unified(text)
    if "$" in plain or "\\" in plain:
        plain = _FORMULA.sub(_spaced, plain)
    return _clean(_TOKEN.findall(plain), _is_shouted(text))


def _spaced(formula: re.Match[str]) -> str:
    """A formula with its letters apart, since `xy` is x times y there; what stands between two prices stays."""
    text = formula[0]
    return text if _PROSE.search(text) else _LETTERS.sub(_apart, text)


def _apart(letters: re.Match[str]) -> str:
    return letters[0] if letters[0][0] == "\\" or letters[0] in _FUNCTION_NAMES else " ".join(letters[0])


def normal_form(text: str) -> str:
    """The normal form of a text."""
    return joined(tokens(text))


def joined(found: Iterable[str]) -> str:
    """Tokens as a normal form; numbers that stand side by side stay apart."""
    parts: list[str] = []
    for token in found:
        if parts and token[0].isdigit() and parts[-1][-1].isdigit():
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def without_drawings(text: str) -> str:
    """A text without the code of its drawings."""
    return _DRAWING.sub(" ", text)


def _is_shouted(text: str) -> bool:
    """Whether a text is in capitals throughout: then these say nothing of its symbols."""
    return not _LOWER.search(text) and len(_CAPITALS.findall(text)) >= 3


@lru_cache(2)  # one question is asked for its form and for its numbers, one after the other
def unified(text: str) -> str:
    """One spelling of characters: Unicode forms, kinds of minus, quotation marks, relations."""
    text = _RAISED.sub(lambda found: "^{" + found[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + found[0].translate(_SUBSCRIPTS) + "}", text)
    text = _VULGAR.sub(lambda found: "\\frac" + "".join(
        "{" + part + "}" for part in unicodedata.normalize("NFKC", found[0]).split("⁄")), text)  # fmt: skip
    text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS)).translate(_SYMBOLS)
    for written, sign in _RELATIONS:
        text = text.replace(written, sign)
    text = _HYPHEN.sub(" ", text.replace("``", " ")).replace('"', " ")
    text = _THIN.sub("", _ROOT.sub(r"\\sqrt[\1]", text))
    text = _THOUSANDS.sub(lambda found: found[1] + found[2].replace(",", ""), text)
    return _QUOTED.sub(r" \1 ", text)


def _clean(found: list[str], shouted: bool) -> list[str]:
    """Tokens without dress, punctuation and needless braces, words in lower case."""
    kept: list[str] = []
    depth = 0
    for at, (token, after) in enumerate(zip(found, [*found[1:], ""], strict=False)):
        if token[0].isalpha():
            if shouted or _is_word(token):
                kept.append(token.lower())
            elif not token[1:].islower() and len(token) > 1:
                kept.extend(token)  # but not `Bo`, which may be a name
            elif token == "A" and _is_article(found[at - 1] if at else "", after):
                kept.append("a")
            else:
                kept.append(token)
        elif token[0] == "\\":
            command = _command(token)
            if command:
                depth += (command == "⦃") - (command == "⦄" and depth > 0)
                kept.append(command)
        elif token[0].isdigit():
            if kept and token.isdigit() and _is_fraction(kept):
                kept.extend(token)  # \frac12 is one half
            else:
                kept.append(token)
        elif token in "{}":
            kept.append(token)
        elif token in _OPEN:
            depth += 1
            kept.append(token)
        elif token in _CLOSE:
            depth = max(0, depth - 1)
            kept.append(token)
        elif token in ",;":
            if depth:
                kept.append(",")
        elif token == ":":
            if kept and kept[-1][-1].isdigit() and after[:1].isdigit():
                kept.append(token)
        elif token == "!":
            if kept and (kept[-1][-1] in ")]!}" or kept[-1][-1].isdigit() or _is_symbol(kept[-1])):
                kept.append(token)
        elif token in "'′":
            if kept and (token == "′" or kept[-1][-1] in ")]}′" or (_is_symbol(kept[-1]) and _ends_a_symbol(after))):
                kept.append("′")
        elif token == "-":
            if not (kept and _is_word(kept[-1]) and _is_word(after) and max(len(kept[-1]), len(after)) > 3):
                kept.append(token)  # a hyphen or a dash between words is none
        elif token not in '.?$&`#~\\"':
            kept.append(token)
    if "{" in kept or "}" in kept or "^" in kept:
        kept = _without_needless_braces(kept)
    return _with_slashes(kept) if r"\frac" in kept else kept


def _command(token: str) -> str:
    """What a LaTeX command stands for; empty for dress."""
    if token in ("\\{", "\\}"):
        return "⦃" if token == "\\{" else "⦄"
    name = token[1:]
    if name == "|":
        return "∥"
    if name == "%":
        return "%"
    if not name.isalpha() or name in _DRESS:
        return ""
    return _ALIASES.get(name, token)


def _is_symbol(token: str) -> bool:
    return len(token) == 1 and token.isalpha()


def _ends_a_symbol(after: str) -> bool:
    """Whether a quotation mark before `after` may be a prime; `I'm` and `x's` have an apostrophe."""
    return not after[:1].isalpha() or (len(after) == 1 and after not in "smdt")


def _is_fraction(kept: list[str]) -> bool:
    """Whether digits that come now are arguments of a fraction, one each."""
    return kept[-1] in _TWO_ARGUMENTS or (len(kept) > 1 and kept[-2] in _TWO_ARGUMENTS and kept[-1] != "{")


@lru_cache(1 << 12)
def _is_word(token: str) -> bool:
    """Whether letters are a word, not symbols side by side."""
    if len(token) < 2 or not token.isalpha():
        return False
    return not token.isascii() or (token[1:].islower() and (len(token) > 2 or token.lower() in _SHORT_WORDS))


def _is_article(before: str, after: str) -> bool:
    """Whether a capital A begins a sentence; in `let A be` it is a symbol."""
    return _is_word(after) and after.islower() and not before.isalpha()


def _with_slashes(kept: list[str]) -> list[str]:
    """Fractions of two tokens with a slash, where nothing raises or lowers them."""
    out: list[str] = []
    at = 0
    while at < len(kept):
        over, under, after = (kept[at + step] if at + step < len(kept) else "" for step in (1, 2, 3))
        is_plain = kept[at] == "\\frac" and over.isalnum() and under.isalnum()
        if is_plain and after not in _BINDS and not (out and out[-1] in _BINDS):
            out += over, "/", under
            at += 3
        else:
            out.append(kept[at])
            at += 1
    return out


def _without_needless_braces(kept: list[str]) -> list[str]:
    """Without the braces around one token, or none."""
    out: list[str] = []
    opened: list[int] = []
    for token in kept:
        if token == "{":
            opened.append(len(out))
            out.append(token)
        elif token == "}":
            if not opened:
                continue
            start = opened.pop()
            if len(out) - start <= 2:
                del out[start]
            else:
                out.append(token)
        else:
            out.append(token)
    unclosed = frozenset(opened)
    # Primes and degrees are raised by themselves.
    return [
        token
        for at, token in enumerate(out)
        if at not in unclosed and not (token == "^" and out[at + 1 : at + 2] in (["′"], ["°"]))
    ]
