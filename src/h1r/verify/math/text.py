r"""The text of an answer before any parser sees it: limits, typesetting, and where a list has its commas.

`refusal` states what is turned away unread; everything after it may assume short, shallow text. All of it is linear.
"""

from __future__ import annotations

import re
from functools import lru_cache

from h1r.verify.math.parse import FUNCTIONS, WORD_CLOSE, WORD_OPEN
from h1r.verify.response.extract import closing_brace

MAX_CHARS = 2_000
MAX_NESTING = 24
MAX_NUMBER_DIGITS = 1_000
MAX_EXPONENT_DIGITS = 5
MAX_LIST_ITEMS = 64

_OPEN_OR_CLOSE = re.compile(r"\\.|[{}()\[\]^!]", re.DOTALL)
_LONG_NUMBER = re.compile(rf"\d{{{MAX_NUMBER_DIGITS + 1}}}")
_LONG_EXPONENT = re.compile(rf"(?:\^|\*\*) ?[{{(]* ?-?\d{{{MAX_EXPONENT_DIGITS + 1}}}")


def refusal(text: str) -> str | None:
    """Why a text is no answer worth reading: too long, too deep, a tower of exponents; None when it may be read."""
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    if _LONG_NUMBER.search(text):
        return f"a number of more than {MAX_NUMBER_DIGITS} digits"
    if _LONG_EXPONENT.search(text):
        return f"an exponent of more than {MAX_EXPONENT_DIGITS} digits"
    depth = deepest = 0
    for match in _OPEN_OR_CLOSE.finditer(text):
        depth += 1 if match[0] in "{([" else -1 if match[0] in "})]" else 0
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"nested deeper than {MAX_NESTING}"
    if text.count("^") + text.count("**") > MAX_NESTING * 4 or text.count("!") > MAX_NESTING:
        return "too many powers or factorials"
    return None


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
        **{digit: f"^{value}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **{digit: f"_{value}" for value, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    }
)
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
_MARKED = f"{WORD_OPEN}[^{WORD_CLOSE}]*{WORD_CLOSE}"
_UNIT_FRACTION = re.compile(rf"\\frac ?\{{ ?({_MARKED}) ?\}} ?\{{ ?({_MARKED}(?: ?\^ ?\{{? ?\d ?\}}?)?) ?\}}")
_HALF_LINE = re.compile(r"\\mathbb ?\{? ?R ?\}? ?(?:_ ?\{? ?>? ?0? ?\}? ?)?\^ ?\{? ?([+-]) ?\}?\Z")
OVER_REALS = re.compile(r"\A([A-Za-z]) ?\\in ?\\mathbb ?\{? ?R ?\}? ?, ?(?=.*(?<![A-Za-z\\])\1(?![A-Za-z]))", re.DOTALL)
_PHANTOM = re.compile(r"\\[hv]?phantom ?\{[^{}]*\}")
_DEGREE = re.compile(r"\^ ?\{? ?\\circ ?\}?|\\circ(?![A-Za-z])|\\degree(?:s)?(?![A-Za-z])")
_SHORT_FRACTION = re.compile(r"\\frac ?(\d) ?(\d)")
_QUANTIFIER = re.compile(
    rf"(?<=[^ ,]) ?,? ?(?:\\forall|{WORD_OPEN} ?,? ?(?:for|where|with) (?:all|any|every|each)\b)[^=<>]*$"
    rf"|(?<=[^ ,]) ?, ?(?:{WORD_OPEN}[a-z ,]*{WORD_CLOSE} ?)?[a-zA-Z] ?\\in ?\\mathbb ?\{{? ?[ZNQR] ?\}}?(?:[_^][*+])?$"
)
"""What says only for which unknowns a statement holds: "for all x", "k in Z"."""
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
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"(?<=[\d}}])[ {WORD_OPEN}]*\b({'|'.join(_SCALES)})s?\b")
_LEADING_IN = re.compile(
    rf"\A[{WORD_OPEN} ]*(?:so|thus|hence|then|therefore|finally)\b[ ,:]*{WORD_CLOSE}?[ ,:]*(?=[^=]*=)", re.IGNORECASE
)
"""What only leads to a statement: Therefore x = 5."""
_EMPTY_MARK = re.compile(f"{WORD_OPEN} *{WORD_CLOSE}")
_BLANK_BESIDE_SIGN = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9\\])")
_LEADING_NUMBER = re.compile(r" *-?\d[\d,]*(?:\.\d+)?(?= +[A-Za-z])")
_CONSTANT_LETTER = frozenset(("e", "i", "d"))


def clean(latex: str) -> str:
    r"""One spelling for what is typeset in many; words from `\text{}` stand between private marks, blanks are single.

    Blanks are kept where they may separate words or a value from its unit.
    """
    text = _AREA.sub(r" \\text{\1}", latex).translate(_UNICODE).replace("\x0c", r"\f")
    if "matrix}" not in text and "array}" not in text and "cases}" not in text:
        text = _ESCAPED_TWICE.sub(r"\\", text)
    text = _THOUSANDS_SPACE.sub("", _ESCAPED_DOLLARS.sub(r"\1", text).replace("$$", "$"))
    text = _without_infix(_UNDERLINED.sub(r"\1", _COLOUR.sub("", text)))
    for _ in range(3):
        text = _STYLED.sub(_mark, _PHANTOM.sub("", text))
    text = _EMPTY_MARK.sub("", _SCALED.sub(_scaled, text))
    text = _DEGREE.sub(r"\\degree ", text)
    text = _COMMAND.sub(lambda match: _SYNONYMS.get(match[0], " " if match[0] == "~" else match[0]), text)
    text = _BARE_FUNCTION.sub(r"\\\1 ", text)
    text = _MIXED_NUMBER.sub(r"\1\\frac{\2}{\3}", text)
    text = _SCIENTIFIC.sub(r"\1*10^{\2}", text)
    text = _UNIT_FRACTION.sub(r"\1/\2", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text))
    text = _TRAILING.sub("", " ".join(text.split()))
    text = OVER_REALS.sub("", _QUANTIFIER.sub("", _LEADING_IN.sub("", text)))
    if half := _HALF_LINE.fullmatch(text):
        return r"(0,\infty)" if half[1] == "+" else r"(-\infty,0)"
    text = _TRAILING.sub("", text.replace("{}", "").lstrip(" ;,:"))
    return _outer_braces(text)


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
    return f"{inner[:start]}{WORD_OPEN}{inner[start:].replace('~', ' ')}{WORD_CLOSE}"


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
    power = rf" \cdot 10^{{{_SCALES[match[1]]}}} "
    return f"{power}{WORD_OPEN}" if WORD_OPEN in match[0] else power


def _outer_braces(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and closing_brace(text, 1) == len(text) - 1:
        if split_top(text[1:-1], ",")[1:]:
            return rf"\{{{text[1:-1]}\}}"
        text = text[1:-1].strip()
    return text


def squeeze(text: str) -> str:
    """A cleaned text without marks and without the blanks that mean nothing, for comparison letter by letter."""
    return _BLANK_BESIDE_SIGN.sub("", " ".join(text.replace(WORD_OPEN, " ").replace(WORD_CLOSE, " ").split()))


_BRACKET = re.compile(r"\\begin ?\{|\\end ?\{|\\[{}]|\\[A-Za-z]+|\\.|[\[\](){}]", re.DOTALL)
_OPENING = frozenset(("(", "[", r"\{", "{"))
_CLOSING = frozenset((")", "]", r"\}", "}"))


def split_top(text: str, separator: str) -> list[str]:
    """The pieces of a text between the occurrences of a separator outside all brackets, stripped.

    The separator is a regular expression that matches no bracket. An unbalanced text is one piece.
    """
    return split_with(text, separator)[0]


def split_with(text: str, separator: str) -> tuple[list[str], list[str]]:
    """As `split_top`, with the separators."""
    depth, start = 0, 0
    pieces: list[str] = []
    found: list[str] = []
    for match in _pattern(separator).finditer(text):
        if match[1] is not None:
            if depth == 0:
                pieces.append(text[start : match.start()].strip())
                found.append(match[1].strip())
                start = match.end()
        elif match[0].startswith(r"\begin"):
            depth += 2  # the environment, and the brace of its name
        elif match[0] in _OPENING:
            depth += 1
        elif match[0] in _CLOSING:
            depth -= 1
            if depth < 0:
                return [text], []
    return ([*pieces, text[start:].strip()], found) if depth == 0 else ([text], [])


@lru_cache(maxsize=32)
def _pattern(separator: str) -> re.Pattern[str]:
    return re.compile(rf"({separator})|{_BRACKET.pattern}", re.DOTALL)


def bracketed(text: str) -> tuple[str, str, str] | None:
    """(opening, content, closing) of a text that is one bracketed group as a whole; `[0,1)` counts."""
    opening = next((bracket for bracket in ("(", "[", r"\{") if text.startswith(bracket)), None)
    if opening is None:
        return None
    depth = 0
    for match in _BRACKET.finditer(text):
        if match[0] in ("(", "[", r"\{", "{"):
            depth += 1
        elif match[0] in (")", "]", r"\}", "}"):
            depth -= 1
            if depth == 0:
                if match.end() != len(text) or match[0] == "}":
                    return None
                return opening, text[len(opening) : match.start()].strip(), match[0]
    return None
