r"""One spelling for what is typeset in many: sizes, styles, synonyms, Unicode, thousands, words that scale or lead in.

`clean` is the way in. It may assume what `text.refusal` grants: short, shallow text.
"""

from __future__ import annotations

import re

from h1r.mathematics.parse import FUNCTIONS, WORD_CLOSE, WORD_OPEN
from h1r.mathematics.qualifiers import without_qualifier
from h1r.mathematics.siunitx import expand
from h1r.mathematics.text import split_top
from h1r.mathematics.vectors import mark_unit_vectors
from h1r.response.extract import closing_brace

_VULGAR = (
    *(("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5)),
    *(("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅐", 1, 7), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8)),
    *(("⅑", 1, 9), ("⅒", 1, 10)),
)
_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "‐": "-",
        "‑": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "∗": "*",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∈": r"\in ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "°": r"\degree ",
        "√": r"\sqrt ",
        "∅": r"\emptyset ",
        "θ": r"\theta ",
        "α": r"\alpha ",
        "β": r"\beta ",
        "λ": r"\lambda ",
        "ℝ": r"\mathbb{R}",
        **{sign: rf"\frac{{{over}}}{{{under}}}" for sign, over, under in _VULGAR},
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "⁄": "/",
        "∕": "/",
        "º": r"\degree ",
        "，": ",",
        "；": ";",
        "：": ":",
        "（": "(",
        "）": ")",
        "％": "%",
        "。": ".",
        "、": ",",
        "＝": "=",
        "＜": "<",
        "＞": ">",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
        **dict.fromkeys(('"', "“", "”", WORD_OPEN, WORD_CLOSE), " "),
        **dict.fromkeys("′’", "'"),
        "μ": "µ",
        "Ω": "Ω",
        "Å": "Å",
        "℃": r"\degree C",
        "℉": r"\degree F",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "△": r"\triangle ",
        "∠": r"\angle ",
    }
)
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉"
_RAISED_RUN = re.compile(f"[{_RAISED}]++")
_LOWERED_RUN = re.compile(f"[{_LOWERED}]++")
_PLAIN = str.maketrans(_RAISED + _LOWERED, "0123456789-+0123456789")
_SYNONYMS = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\nicefrac": r"\frac",
    r"\sfrac": r"\frac",
    r"\dbinom": r"\binom",
    r"\tbinom": r"\binom",
    r"\leq": r"\le",
    r"\leqslant": r"\le",
    r"\geq": r"\ge",
    r"\geqslant": r"\ge",
    r"\lt": "<",
    r"\gt": ">",
    r"\neq": r"\ne",
    r"\varnothing": r"\emptyset",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\setminus": r"\setminus",
    r"\langle": "(",
    r"\rangle": ")",
    r"\lbrack": "[",
    r"\rbrack": "]",
    r"\vert": "|",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\mid": "|",
    r"\simeq": r"\approx",
    r"\&": r" and ",
    r"\land": r" and ",
    r"\lor": r" or ",
    r"\vee": r" or ",
    r"\wedge": r" and ",
    r"\colon": ":",
    r"\ast": "*",
    r"\arcctg": r"\arccot",
    r"\ctg": r"\cot",
    r"\tg": r"\tan",
    r"\arctg": r"\arctan",
    r"\operatorname": r"\mathrm",
    **dict.fromkeys((r"\left", r"\right", r"\displaystyle", r"\textstyle", r"\limits", r"\middle", r"\nolimits"), ""),
    **dict.fromkeys((r"\big", r"\Big", r"\bigl", r"\bigr", r"\Bigl", r"\Bigr", r"\bigg", r"\biggl", r"\biggr"), ""),
    **dict.fromkeys((r"\quad", r"\qquad", r"\thinspace", r"\,", r"\;", r"\:", r"\!", r"\ ", r"\enspace", r"\""), " "),
    **dict.fromkeys((r"\(", r"\)", r"\[", r"\]", "$"), " "),
}
_COMMAND = re.compile(r"\\[A-Za-z]+|\\[^A-Za-z]|\$|~", re.DOTALL)
_THOUSANDS_SPACE = re.compile(r"(?<=\d)(?:\{,\}|,(?:\\!|\\,|\\ |\{\})+|\\[,!]) ?(?=\d{3}(?!\d))")
_STYLED = re.compile(
    r"\\(text|textbf|textit|textrm|texttt|textnormal|textup|mathrm|mathbf|mathit|mathsf|boldsymbol|bold|bf|rm|mbox|hbox|mathop)"
    r" ?\{([^{}]*)\}"
)
_COLOUR = re.compile(r"\\(?:text)?color ?\{ ?[A-Za-z]+ ?\}")
_UNDERLINED = re.compile(r"\\underline ?\{([^{}]*)\}")
_INFIX = re.compile(r"\\(over|choose)(?![A-Za-z])|([{}])|\\.", re.DOTALL)
"""TeX's old way to write a fraction or a binomial, whose arguments are all that stands before and after it."""
_NO_ARGUMENT = re.compile(r"[=<>,;]|\\(?:text|left|right|le|ge|ne|approx|in)(?![A-Za-z])")
"""What keeps a formula from being one fraction as a whole."""
_MARKED = f"{WORD_OPEN}[^{WORD_OPEN}{WORD_CLOSE}]*+{WORD_CLOSE}"
_UNITS_SIDE_BY_SIDE = rf"{_MARKED}(?: ?\^ ?\{{? ?\d ?\}}?)?(?: ?(?:\\cdot|\*)? ?{_MARKED}(?: ?\^ ?\{{? ?\d ?\}}?)?)?"
_UNIT_FRACTION = re.compile(rf"\\frac ?\{{ ?({_UNITS_SIDE_BY_SIDE}) ?\}} ?\{{ ?({_UNITS_SIDE_BY_SIDE}) ?\}}")
_HALF_LINE = re.compile(r"\\mathbb ?\{? ?R ?\}? ?(?:_ ?\{? ?>? ?0? ?\}? ?)?\^ ?\{? ?([+-]) ?\}?\Z")
OVER_REALS = re.compile(r"\A([A-Za-z]) ?\\in ?\\mathbb ?\{? ?R ?\}? ?, ?(?=.*(?<![A-Za-z\\])\1(?![A-Za-z]))", re.DOTALL)
_PHANTOM = re.compile(r"\\[hv]?phantom ?\{[^{}]*\}")
_DEGREE = re.compile(r"\^ ?\{? ?\\circ ?\}?|\\circ(?![A-Za-z])|\\degree(?:s)?(?![A-Za-z])")
_SHORT_FRACTION = re.compile(r"\\frac ?(\d) ?(\d)")
_FEET_INCHES = re.compile(
    r"(\d) ?(?:\^ ?\\prime|['′’]) ?(\d++(?:\.\d++)?) ?(?:\^ ?\{? ?\\prime ?\\prime ?\}?|[\"″”]|'')"
)
_MINUTES_OF_ARC = re.compile(r"(?<=\d)\^ ?\{? ?\\prime ?\}?(?! ?\\prime)")
_APOSTROPHES = re.compile(r"(?<![\d'’.,])(\d{1,3}(?:['’]\d{3})++)(?![\d'’])")
_ASSIGNMENTS_APART = re.compile(r"(?<=[\d})]) ?(?:\\q?quad|\\\\) ?(?=[A-Za-z](?:_\w)? ?=)")
_OPEN_CONSTANT = re.compile(r"\+ ?\\(?:text|mathrm|textrm) ?\{ ?[Cc]onst(?:ant|\.)? ?\}")
_LETTER_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?(?:\^|\*\*))")
_NESTED = re.compile(r"(\\(?:text|textrm|mathrm|rm|mbox|operatorname) ?\{)((?:[^{}]|\{[^{}]*+\})*+)(?=\})")
_EXPONENT_INSIDE = re.compile(r"\^ ?\{ ?(-?\d) ?\}")
_SPACING_INSIDE = re.compile(r"\\[,;:! ]|\\cdot(?![A-Za-z])|~")
_MICRO = re.compile(rf"(?:{WORD_OPEN} ?µ ?{WORD_CLOSE}|µ|\\mu(?![A-Za-z])) ?{WORD_OPEN} ?([A-Za-zΩ]++)")
_OHM = re.compile(
    rf"(?<=[\d.)}} {WORD_CLOSE}])(?:{WORD_OPEN} ?([kMGmµ]) ?{WORD_CLOSE}|([kMmµ]))? ?\\Omega(?![A-Za-z_^]) ?\Z"
)
_ANGSTROM = re.compile(r"\\AA(?![A-Za-z])|\\mathring ?\{ ?A ?\}")
_TEMPERATURE = re.compile(
    rf"\\degree *+{WORD_OPEN}? *+(?:([CF])|([Cc]elsius|[Ff]ahrenheit|[Cc]entigrade))(?![A-Za-z_^]) *+{WORD_CLOSE}?"
)
_ANGLED = re.compile(r"\\left ?<(.*)\\right ?>|\A ?<([^<>=]*,[^<>=]*)> ?\Z", re.DOTALL)
_BARRED_MATRIX = re.compile(
    r"(?:\\left ?)?+\| ?\\begin ?\{matrix\}((?:[^\\|]|\\(?!begin|end|right))*+)\\end ?\{matrix\} ?(?:\\right ?)?+\|"
)
_TUPLES_SIDE_BY_SIDE = re.compile(r"(\([^(),]*+,[^()]*+\)) ?(?=\([^(),]*+,[^()]*+\))")
_BRACED_FIGURE = re.compile(
    r"(\\(?:triangle|angle|odot|square|parallelogram|overline|overrightarrow|vec|widehat) ?)\{ ?([A-Z][A-Z']++) ?\}"
)
_AREA = re.compile(r"(?<=\d) ?([kcdm]?m)(?=[²³])")
_MIXED_NUMBER = re.compile(r"(?<![\d.,/^_])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\d.,/])")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d{1,40}(?:\.\d{1,40})?)[eE]([-+]?\d{1,4})(?!\w|\.\d)")
_NAMES = "|".join((*FUNCTIONS, "log", "sqrt", "infty", "pi"))
_BARE_FUNCTION = re.compile(rf"(?<![A-Za-z\\])({_NAMES})(?![A-Za-z]{{2}})")
_ESCAPED_DOLLARS = re.compile(r"\A\s*\\\$([^$]+)\\\$\s*\Z", re.DOTALL)
"""Around a formula that was escaped with its text; a sum of money has one at its beginning only."""
_ESCAPED_TWICE = re.compile(r"\\\\(?=[A-Za-z]{2})")
_TRAILING = re.compile(r"(?<![ .;,:])(?![ ;,:]*\.\.\.)[ .;,:]+\Z")
"""Punctuation at the end; three dots are none."""
_PUNCTUATION = (" ", ".", ";", ",", ":")
_SCALES = {
    **{name: f"10^{{{power}}}" for name, power in (("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9))},
    "mil": "10^{6}",
    "grand": "10^{3}",
    "tens": "10",
    **{
        name: f"10^{{{power}}}"
        for name, power in (("trillion", 12), ("quadrillion", 15), ("lakh", 5), ("lac", 5), ("crore", 7))
    },
    "dozen": "12",
    "gross": "144",
    "score": "20",
    **{name: f"10^{{{power}}}" for name, power in (("mn", 6), ("mln", 6), ("bn", 9), ("tn", 12))},
}
_SCALED = re.compile(rf"(?<=[\d}}])[ {WORD_OPEN}]*+\b({'|'.join(_SCALES)})s?\b(?!-)(?: of\b)?", re.IGNORECASE)
_WORD_BEHIND = re.compile(rf"[\d}}.,][ {WORD_OPEN}]*+[^\W\d_]")
"""A letter behind a number or a group, as what `_SCALED`, `_THOUSANDS` and `_MILLIONS` match has it."""
_THOUSANDS = re.compile(rf"(?<=\d) ?{WORD_OPEN} ?k ?{WORD_CLOSE} ?\Z")
_MILLIONS = re.compile(rf"(?<![\d.,])([1-9][\d.,]*+){WORD_OPEN}([MB]){WORD_CLOSE} ?\Z")
"""Letters set close to a number are millions and billions: with a blank, M is molar, and B a byte."""
_LEADING_IN = re.compile(
    rf"\A[{WORD_OPEN} ]*(?:so|thus|hence|then|therefore|finally)\b[ ,:]*{WORD_CLOSE}?[ ,:]*(?=[^=]*=)", re.IGNORECASE
)
"""What only leads to a statement: Therefore x = 5."""
_EMPTY_MARK = re.compile(f"{WORD_OPEN} *{WORD_CLOSE}")
_LEADING_NUMBER = re.compile(r" *-?\d[\d,]*(?:\.\d+)?(?= +[A-Za-z])")
_CONSTANT_LETTER = frozenset(("e", "i", "d"))


def clean(latex: str) -> str:
    r"""One spelling for what is typeset in many; words from `\text{}` stand between private marks, blanks are single.

    Blanks are kept where they may separate words or a value from its unit.
    """
    return _statement(_typeset(latex))[0]


def domain(latex: str) -> str | None:
    """Where the unknowns of an answer lie, if it says so at its end: Z, N, Q, R or C."""
    return _statement(_typeset(latex))[1]


def _statement(text: str) -> tuple[str, str | None]:
    text, stated = without_qualifier(text)
    if half := _HALF_LINE.fullmatch(text):
        return (r"(0,\infty)" if half[1] == "+" else r"(-\infty,0)"), stated
    text = OVER_REALS.sub("", text)
    return _outer_braces(_without_end(text.replace("{}", "").lstrip(" ;,:"))), stated


def _typeset(latex: str) -> str:
    """One spelling of signs, numbers, and commands. An expression is asked only where a sign that it needs is there."""
    text = mark_unit_vectors(_OPEN_CONSTANT.sub("+ C", expand(latex)) if "onst" in latex else expand(latex))
    if "'" in text or "′" in text or "’" in text or r"\prime" in text:
        text = _FEET_INCHES.sub(r"\1 \\text{ft} \2 \\text{in}", text)
        text = _APOSTROPHES.sub(lambda match: re.sub("['’]", "", match[1]), _MINUTES_OF_ARC.sub("'", text))
    text = (text.replace('"', " ") if text.isascii() else _in_ascii(text)).replace("\x0c", r"\f")
    if "10" in text:
        text = _LETTER_TIMES.sub(r"\\cdot ", text)
    if "matrix}" in text:
        text = _BARRED_MATRIX.sub(r"\\begin{vmatrix}\1\\end{vmatrix}", text)
    if r"\AA" in text or "ring" in text:
        text = _ANGSTROM.sub("Å", text)
    if "<" in text:
        text = _ANGLED.sub(lambda match: f"({match[1] or match[2]})", text)
    if "^" in text:
        text = _NESTED.sub(lambda match: match[1] + _EXPONENT_INSIDE.sub(r"^\1", match[2]), text)
    if r"\\" in text and "matrix}" not in text and "array}" not in text and "cases}" not in text:
        text = _ESCAPED_TWICE.sub(r"\\", text)
    if "$" in text:
        text = _ESCAPED_DOLLARS.sub(r"\1", text).replace("$$", "$")
    if "," in text or r"\!" in text:
        text = _THOUSANDS_SPACE.sub("", text)
    if "\\" in text:
        text = _without_styles(text)
    if _WORD_BEHIND.search(text):
        text = _SCALED.sub(_scaled, _SCALED.sub(_scaled, _abbreviated(text)))
    if WORD_OPEN in text:
        text = _EMPTY_MARK.sub("", text)
    if r"\circ" in text or r"\degree" in text:
        text = _TEMPERATURE.sub(_temperature, _DEGREE.sub(r"\\degree ", text))
    if "=" in text and "begin" not in text:
        text = _ASSIGNMENTS_APART.sub(", ", text)
    text = _COMMAND.sub(lambda match: _SYNONYMS.get(match[0], " " if match[0] == "~" else match[0]), text)
    text = _BRACED_FIGURE.sub(lambda match: f"{match[1]} {match[2]}", text)
    if text.count("(") > 1:
        text = _TUPLES_SIDE_BY_SIDE.sub(r"\1, ", text)
    text = _BARE_FUNCTION.sub(lambda match: f"\\{match[1]} ", text)
    if "/" in text:
        text = _MIXED_NUMBER.sub(r"\1\\frac{\2}{\3}", text)
    if "e" in text or "E" in text:
        text = _SCIENTIFIC.sub(lambda match: f"{match[1]}*10^{{{match[2]}}}", text)
    text = _SHORT_FRACTION.sub(lambda match: rf"\frac{{{match[1]}}}{{{match[2]}}}", text)
    if WORD_OPEN in text:
        text = _UNIT_FRACTION.sub(r"\1/\2", text)
    text = _without_end(" ".join(text.split()))
    if "mu" in text or "µ" in text or r"\Omega" in text:
        text = _OHM.sub(
            lambda match: f" {WORD_OPEN}{match[1] or match[2] or ''}Ω{WORD_CLOSE}", _MICRO.sub(_micro, text)
        )
    return _LEADING_IN.sub("", text) if "=" in text else text


def _in_ascii(text: str) -> str:
    text = _RAISED_RUN.sub(lambda match: f"^{{{match[0].translate(_PLAIN)}}}", _AREA.sub(r" \\text{\1}", text))
    return _LOWERED_RUN.sub(lambda match: f"_{{{match[0].translate(_PLAIN)}}}", text).translate(_UNICODE)


def _without_styles(text: str) -> str:
    if "color" in text or "underline" in text:
        text = _UNDERLINED.sub(r"\1", _COLOUR.sub("", text))
    text = _without_infix(text)
    for _ in range(3):
        before = text
        text = _STYLED.sub(_mark, _PHANTOM.sub("", text))
        if text == before:
            break
    return text


def _without_end(text: str) -> str:
    return _TRAILING.sub("", text) if text.endswith(_PUNCTUATION) else text


def _mark(match: re.Match[str]) -> str:
    style, inner = match[1], match[2]
    word = inner.strip(" ~\\")
    if not word or not any(letter.isalpha() for letter in word):
        return inner
    if len(word) == 1 and (not style.startswith(("text", "mbox", "hbox", "mathrm", "rm")) or word in _CONSTANT_LETTER):
        return f" {word} "
    if WORD_OPEN in inner:
        return inner
    if word in FUNCTIONS or word in ("log", "lg"):
        return f"\\{word} "
    number = _LEADING_NUMBER.match(inner)
    start = number.end() if number else 0
    words = _SPACING_INSIDE.sub(" ", inner[start:]).replace(r"\mu", "µ").replace(r"\Omega", "Ω")
    return f"{inner[:start]}{WORD_OPEN}{words}{WORD_CLOSE}"


def _micro(match: re.Match[str]) -> str:
    return f"{WORD_OPEN}µ{match[1]}" if match[1] else match[0]


def _temperature(match: re.Match[str]) -> str:
    scale = "f" if (match[1] or match[2])[0] in "Ff" else "c"
    return f" {WORD_OPEN}°{scale}{WORD_CLOSE}"


def _without_infix(text: str) -> str:
    r"""{a \over {b \over c}} as \frac{a}{\frac{b}{c}}; the text itself where a brace or an argument is missing."""
    if r"\over" not in text and r"\choose" not in text:
        return text
    groups: list[list[str]] = [[""]]  # of each open brace the text so far; after an infix its name and what follows it
    start = 0
    for match in _INFIX.finditer(text):
        groups[-1][-1] += text[start : match.start()]
        start = match.end()
        if match[1]:
            groups[-1] += [match[1], ""]
        elif match[2] == "{":
            groups.append([""])
        elif match[2] == "}":
            if len(groups) == 1:
                return text
            group = groups.pop()
            groups[-1][-1] += _prefixed(group) or f"{{{group[0]}}}"
            if len(group) > 1 and not _prefixed(group):
                return text
        else:
            groups[-1][-1] += match[0]
    whole = groups.pop()
    whole[-1] += text[start:]
    if groups or (len(whole) > 1 and any(map(_NO_ARGUMENT.search, whole))):
        return text
    return (_prefixed(whole) or text) if len(whole) > 1 else whole[0]


def _prefixed(group: list[str]) -> str | None:
    if len(group) != 3 or not group[0].strip() or not group[2].strip():
        return None
    command = r"\frac" if group[1] == "over" else r"\binom"
    return f"{command}{{{group[0].strip()}}}{{{group[2].strip()}}}"


def _scaled(match: re.Match[str]) -> str:
    """5 million is 5 * 10^6; a mark that the word stood in is opened again for what follows it."""
    power = rf" \cdot {_SCALES[match[1].lower()]} "
    return f"{power}{WORD_OPEN}" if WORD_OPEN in match[0] else power


def _abbreviated(text: str) -> str:
    r"""4\text{k} is 4 * 10^3, 4\text{M} and 4\text{B} are 4 * 10^6 and 4 * 10^9."""
    text = _THOUSANDS.sub(r" \\cdot 10^{3}", text)
    return _MILLIONS.sub(lambda match: rf"{match[1]} \cdot 10^{{{6 if match[2] == 'M' else 9}}}", text)


def _outer_braces(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and closing_brace(text, 1) == len(text) - 1:
        if split_top(text[1:-1], ",")[1:]:
            return rf"\{{{text[1:-1]}\}}"
        text = text[1:-1].strip()
    return text
