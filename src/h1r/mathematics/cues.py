r"""The words and signs by which a sentence states, explains, weighs, denies, gives up, or was cut off.

`sentences` uses them. They are data: a phrase that is missing goes into one of these lists, with a line in the tests'
tables.
"""

from __future__ import annotations

import re

_STOP = r"\.(?<![MD]r\.)(?<!Mrs\.)(?<!Ms\.)(?<!St\.)(?<!vs\.)(?<!i\.e\.)(?<!e\.g\.)"
END = re.compile(rf"\n|{_STOP}(?:\s|$)|<\||[!?](?:\s|$)")
SENTENCE_END = re.compile(rf"\n|{_STOP}\s|[?!]\s|\.\$\$?\s|\$\$\s|\\\]\s")
BEGINS = re.compile(r"(?<=[\s$])(?:So|Thus|Therefore|Hence)\b")
BOUND = re.compile(
    r"(?:no |not )?(?:less|more|greater|larger|smaller|bigger|higher|lower|fewer|other) than\b|at (?:most|least)\b"
    r"|(?:between|over|under|above|below|beyond|exceeding|near|up to|anything|close to)\b"
)
"""What makes of the number behind it another answer: "the answer is at most 5"."""
CONNECTED = re.compile(r"\s*+(?:;|,\s*+(?:and|or)?+|and|or)\s*+")
VERB = re.compile(r"\b(?:is|are|equals|be|was)\b[: *]*+|\b(?:it|that|this|there)['’]s\b[: *]*+|(?<![<>\\!])= *+")


def _any_of(*phrases: str) -> str:
    return rf"\b(?:{'|'.join(phrases)})\b"


ADVERB = re.compile(
    "(?:[ :,*]|"
    + _any_of(
        *("surely", "clearly", "obviously", "definitely", "certainly", "simply", "just", "exactly", "precisely"),
        *("indeed", "thus", "therefore", "hence", "then", "now", "also", "actually", "in fact", "of course", "again"),
        *("equal to", "given by", "found to be", "approximately", "about", "only", "undoubtedly", "finally", "both"),
    )
    + ")++"
)
_EXPLAINS = _any_of(
    *("because", "since", "rather than", "instead of", "as opposed to", "due to", "which", "whereas", r"by \w+ing"),
    *("as required", "as desired", "as claimed", "as expected", r"as(?! well\b)", r"i\.e", r"(?:and|but),? not"),
)
_GOES_ON = _any_of(
    *("not", "so", "hence", "thus", "therefore", "that is", "while", "giving", "meaning", "making", "to be", "being"),
    *("attained", "achieved", "reached", "occurring", "namely", "corresponding"),
    *("obtained", "found", "after", "when rounded", "rounded", "where we", "where the", "where i"),
    *(f"and {word}" for word in ("we", "this", "it", "that", "the", "so", "i", "hence", "thus", "not")),
)
_NEARLY = r"(?:or|i\.e\.,?) (?:about|approximately|roughly|around|equivalently)\b"
CLAUSE = re.compile(
    rf"[,;]? {{0,4}}{_EXPLAINS}|[,;] {{0,4}}{_GOES_ON}|,? {{0,4}}{_NEARLY}"
    rf"|(?<=[\d$}}%)]), (?:the|an?)\b|;\s*(?=[a-z]{{2}})|\s(?:--|[—–])"
    r"|\s-\s(?=[a-z]{2})|;\s*(?=\d{1,9} (?:is|are|was|would)\b)|, i am\b"
    rf"| not (?=[-\d$\\A-D])|\s?\((?=(?:since|because|not|as|i\.e|that is|the|from|see|rounded|which|with|after)\b)",
    re.IGNORECASE,
)
"""Where the answer ends, and what explains, compares or denies begins."""
HEDGE = re.compile(
    _any_of(
        *("but", "maybe", "perhaps", "possibly", "might", "unless", "if", "when", "not sure", "unsure"),
        *("or maybe", "or perhaps", "or something", "or more", "or less", "or so"),
    )
)
DENIAL = re.compile(
    r"\banswer (?:(?:is|was|could|would|should|can) ?(?:definitely |certainly )?(?:not\b|n['’]t\b|never\b)|can['’]t\b"
    r"|cannot\b)(?: be\b)?|\bnot (?:true|the case) that\b|\bit(?: is|['’]s| was) not\b|\bit isn['’]t\b",
    re.IGNORECASE,
)
DENIED = re.compile(
    r"\b(?:wrong|incorrect|mistaken|not|never|cannot|neither|nor|(?:is|are|has|have) no|no (?=\d))\b|n['’]t\b",
    re.IGNORECASE,
)
_IT_IS = (
    r"(?:it|that|this|the (?:correct |right |true )?answer)(?:['’]s| is| must be| should be| equals| was)\b[ :]*+"
    r"(?:actually |rather |instead )?"
)
INSTEAD = re.compile(
    rf"(?:[;,.:—–-]|\bbut\b) *+(?:but |rather |instead |actually ){{0,2}}{_IT_IS}"
    r"|\bbut (?:rather |actually )?(?=[-\d$\\*A-J(])(?!\S+ (?:is|are|was|seems|looks|might|may|could)\b)"
    r"|[;,] *+(?:rather|instead),? "
    rf"|\b(?:therefore|so|hence|thus),? (?:i think )?{_IT_IS}",
    re.IGNORECASE,
)
GIVES_UP = re.compile(
    _any_of(
        *(
            "unable",
            "not able",
            r"fail(?:ed|s)?",
            "gave up",
            "give up",
            "giving up",
            "attempts?",
            "tries",
            "try",
            "trying",
        ),
        *(
            "stuck",
            "hard",
            "difficult",
            "unclear",
            "unsure",
            "not sure",
            "no idea",
            "not know",
            "n['’]t know",
            "guessing",
        ),
        *("(?:my|best|a|i|educated) guess", "an error", "timed? out", "ran out", "too long", "too many", "let me"),
        *("let us", "let['’]s", "let", "suppose", "assume", "assuming", "consider", "wait", "hmm+", "maybe", "perhaps"),
        *("might", "possibly", "given", "recall", "note", "denote", "would need", "want to", "cannot", "can['’]t"),
        *("could not", "couldn['’]t", "need to (?:find|check|compute|count|show|consider|determine)"),
        *("whether", "nobody", "no one", "wonder", "doubt", "so far", "could only", "we know"),
    )
    + r"|\A(?:first|next|step)\b|\?",
    re.IGNORECASE,
)
"""What starts, supposes, asks or gives up: no conclusion."""
CONCLUDES = re.compile(
    r"\A[ *#>-]*+"
    + _any_of(
        *("so", "thus", "hence", "therefore", "then", "finally", "consequently", "altogether", "overall", "in total"),
        *("in all", "in conclusion", "as a result", "it follows", "answer", "result", "conclusion", "it will take"),
        *("(?:this|that) (?:gives|means|makes|leaves)", "we (?:get|find|obtain|conclude|have|see)", "there (?:are|is)"),
        *("i (?:get|got|find|found|obtain|conclude)", "putting (?:\\w+ )?(?:all )?together", "exactly"),
        *("the (?:final )?(?:answer|result|total|sum|solution)", "(?:it|that) is", "it['’]s"),
    ),
    re.IGNORECASE,
)
LEADS = re.compile(
    r"[ *#>-]*+(?:"
    + _any_of(
        *("so", "thus", "hence", "therefore", "then", "finally", "consequently", "this means", "it follows", "and"),
        *("that", "we (?:see|get|find|conclude)", "in conclusion", "this shows", "only"),
    )
    + "[ ,:]*+)*+",
    re.IGNORECASE,
)
SUBJECT = re.compile(
    r"(?:is|are|must be|will be|was) (?:therefore |thus |also |indeed |clearly )?(?:the|our|my|what|correct|right)\b"
    r"|(?:is|are) (?:needed|required|left|possible|enough)\b|works?\b(?!.*\d)",
    re.IGNORECASE,
)
NOT_THE_ANSWER = re.compile(
    _any_of(
        *("wrong", "incorrect", "first", "second", "last", "next", "one of", "smaller", "larger", "denominator"),
        *("numerator", "given", "guess", "initial", "starting", "old", "original", "previous"),
    ),
    re.IGNORECASE,
)
_FUNCTION_WORDS = (
    *(
        "the",
        "a",
        "an",
        "and",
        "or",
        "of",
        "to",
        "is",
        "are",
        "in",
        "for",
        "with",
        "that",
        "by",
        "then",
        "so",
        "we",
        "if",
    ),
    *(
        "at",
        "on",
        "from",
        "as",
        "but",
        "be",
        "because",
        "since",
        "which",
        "than",
        "this",
        "these",
        "will",
        "have",
        "has",
    ),
    *(
        *("each", "every", "all", "any", "some", "both", "they", "he", "she", "you", "would", "could", "can", "was"),
        *(
            "gives?",
            "yields?",
            "becomes?",
            "implies",
            "means",
            "were",
            "while",
            "until",
            "between",
            "about",
            "such",
            "whose",
            "who",
            "there",
            "not",
            "no",
        ),
        "where",
        "when",
        "into",
        "per",
        "also",
        "let",
        "get",
        "it",
        "i",
        "my",
        "our",
        "their",
        "his",
        "her",
        "after",
        "before",
    ),
)
DANGLING = re.compile(rf"(?:\b(?:{'|'.join(_FUNCTION_WORDS)})|[-=+*/<>,:(\[^_\\]|\.\.\.|…)\s*+\Z", re.IGNORECASE)
"""How a sentence does not end unless it was cut off."""
NOT_SAID = re.compile(
    r"\b(?:not (?:able|sure|certain|known)|do(?:es)? not know|false that|at first (?:glance|sight)"
    r"|(?:common|usual) mistake"
    r"|the (?:rest|others?|remaining ones)\b[^.]{0,20} (?:is|are|was|were))\b",
    re.IGNORECASE,
)
"""What a sentence holds that concludes nothing; "there are 5 red balls; the rest are blue" tells what is given."""
LAST_LETTER = re.compile(r"(?:^|\s)\(?([A-J])[).*\s]*+$")
CHOSEN = re.compile(r"(?:\b(?:is|be|choose|pick|select|option|choice|answer)|['’]s)[ :*(]*+\Z", re.IGNORECASE)
SAYS = re.compile(
    _any_of(
        *("has", "had", "have", "will", "would", "can", "must", "needs?", "gets?", "got", "takes?", "took", "makes?"),
        *(
            "made",
            "costs?",
            "spends?",
            "spent",
            "earn(?:s|ed)?",
            "paid",
            "pays?",
            "drove",
            "ran",
            "won",
            "sold",
            "bought",
        ),
        *(
            "ate",
            "read",
            "receive[sd]?",
            "save[sd]?",
            "use[sd]?",
            "walk(?:s|ed)?",
            "lost",
            "left",
            "contains?",
            "equals",
        ),
        *("is", "are", "was", "were"),
    ),
    re.IGNORECASE,
)
COMPARED = re.compile(
    _any_of(
        *(
            "except",
            "than",
            "least",
            "most",
            "but",
            "below",
            "above",
            "over",
            "under",
            "between",
            "modulo",
            "mod",
            "by",
        ),
        *("up to", "almost", "nearly", "half", "twice", "or"),
    )
    + r"[ $€£]*+\Z",
    re.IGNORECASE,
)
"""Words before a number that make of it another one."""
NAMED = re.compile(r"[^\d\n$\\:]{1,40}: *+(?=[-$€£]?\d)")
COUNTED = re.compile(r"[^\d$\\=<>?‰+±]{0,60}\Z")
COUNTS_NO_MORE = re.compile(
    _any_of(
        *("or", "but", "if", "unless", "than", "except", "divided", "times", "plus", "minus", "to the", "percent of"),
        *("squared", "cubed", "factorial", "choose", "raised", "hal(?:f|ves)", "thirds?", "fourths?", "quarters?"),
        *("fifths?", "sixths?", "eighths?", "tenths?", "below", "under", "modulo", "mod"),
    ),
    re.IGNORECASE,
)
WEIGHED = re.compile(
    _any_of("than", "at (?:least|most)", "modulo", "mod", "divisible by", "(?:multiple|factor|power|divisor) of")
    + r"[ $€£]*+\Z",
    re.IGNORECASE,
)
"""Words before the only number of a conclusion that make of it no answer."""
PREDICATE = re.compile(
    r"\W{0,8}(?:(?:is|are|was|would be|seems) (?:also |only |just |therefore |thus )?"
    r"(?:an?|too|close|near|larger|smaller|greater|less|even|odd|prime|divisible|impossible|extraneous|invalid|excluded"
    r"|rejected|discarded|wrong|incorrect|ruled out|not)\b"
    r"|divides\b|leads? to\b|contradicts\b|fails\b"
    r"|(?:does|can)(?:n['’]t|not| not)\b|times (?:as|that|the|this|more)\b)",
    re.IGNORECASE,
)
"""What is said of a number that is not given as the answer: 5 is too small, 5 divides it."""
RELATED = re.compile(
    _any_of(
        *("exceed(?:s|ing)?", "surpass(?:es)?", "differs? from", "unequal to", "(?:begins?|starts?|ends?) (?:with|in)"),
        *(
            "(?:upper|lower) (?:bound|limit|estimate)(?: \\w++)?(?: is| of)?",
            "bounded by",
            "contradicts?",
            "over",
            "under",
        ),
        *("above", "below", "beyond", "near", "than", "at (?:least|most)", "up to", "close to", "almost", "nearly"),
        *(
            "(?:could|may|might)(?: also| well)? be",
            "(?:wrong|incorrect|false|first|naive) (?:\\w++ )?(?:is|was|would be)",
        ),
        *("rejects?", "discards?", "exclude[sd]?", "rules? out", "ruled out", "eliminates?", "except", "anything but"),
        *("congruent to", "coprime to", "not"),
    )
    + r"[ $€£(\\\[]*+(?:[A-Za-z](?:_\w)? ?= ?)?\Z",
    re.IGNORECASE,
)
"""Words before a value that relate it to the answer, and do not make it the answer: it exceeds 5, we reject x = 5."""
SUPPOSED = re.compile(
    _any_of(
        *("suppose", "supposing", "assume", "assuming", "if", "whether", "unless", "imagine", "nobody", "no one"),
        *(
            "doubt",
            "(?:might|may|could|would) (?:think|say|guess|expect|believe)",
            "wrong",
            "incorrect",
            "false",
            "naive",
        ),
        *("(?:do|did|does)(?:n['’]t| not) (?:think|believe)",),
    )
    + r"[^.!?\n$]{0,60}\Z",
    re.IGNORECASE,
)
"""What stands before "the answer is 5" and makes of it no statement."""
HAS = re.compile(r"\b(?:answer|result|solution|number|total|sum|value) (?:has|have|had|contains?|ends|starts)\b")
"""What is said of an answer, and is not its value: it has 5 digits."""
TAKEN_BACK = re.compile(r"[.!?\n] ?(?:wait|actually|no|correction|sorry|oops|hmm+)\b(?=[,:. ])", re.IGNORECASE)
"""A sentence that begins to take back the one before it."""
