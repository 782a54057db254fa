"""The words with which answers state, deny and connect options, each with the class that `statements` reads it as.

    n  answer            a  right            c  is, are, be        x  not, none, cannot      b  but, rather
    o  option, choice    w  wrong            k  a colon (j: =)     e  eliminate, rule out    y  than, unlike
    v  choose            l  therefore        d  must, would        q  if, suppose            i  it, this, which
    f  words that may stand between these    t  think, believe     m  between                u  doubt
    g  possible: says something only where it is denied          s  all, any

Languages: English, Spanish, French, German, Portuguese, Italian, Dutch, Russian, Polish, Turkish, Indonesian,
Vietnamese, Chinese, Japanese, Korean, Arabic, Hindi. A word that two languages use otherwise has the class that fits
both, or is left out. Our choice: the words that answers to multiple choice questions were seen with, or would need.
"""

from __future__ import annotations

import re

_SPACED = {
    "n": """
        answer answers ans solution lösung solución soluzione solution respuesta respuestas réponse réponses
        antwort antworten resposta respostas risposta risposte antwoord ответ ответы ответом cevap cevabı yanıt
        odpowiedź odpowiedzią odpowiedzi jawaban jawabannya đáp svar الإجابة الاجابة الجواب उत्तर
        """,
    "o": """
        option options choice choices alternative alternatives selection opción opciones alternativa
        alternativas choix proposition auswahl antwortmöglichkeit opção opções opzione opzioni вариант варианты
        варианта seçenek seçeneği şık şıkkı opcja opsi pilihan statement statements item letter letters letra
        lettre buchstabe lettera буква литера aussage affirmation afirmación afirmação утверждение optie
        stelling
        """,
    "a": """
        correct right best true valid accurate appropriate proper correcta correcto correctas correctos
        verdadera verdadero mejor bonne bon juste correcte correctes exacte vraie vrai meilleure richtig
        richtige richtigen richtiger korrekt korrekte beste wahr zutreffend correta correto corretas certa certo
        corretta corretto corrette giusta giusto esatta esatto vera vero правильный правильно правилен
        правильным правильная правильны верный верно верен верна верным верны juist juiste goede doğru doğrudur
        poprawna poprawny prawidłowa prawidłowy benar tepat betul đúng الصحيحة الصحيح صحيحة सही riktig rätt
        """,
    "w": """
        mistake error wrong incorrect false invalid inaccurate impossible untrue inconsistent incorrecta
        incorrecto incorrectas falsa falso falsas errónea erróneo fausse faux fausses incorrecte falsch falsche
        unrichtig unmöglich incorreta incorreto errada errado sbagliata sbagliato errata scorretta неверный
        неверно неверен неверна неправильно неправильный ложно ложь onjuist fout yanlış yanlıştır błędna błędny
        niepoprawna salah sai خاطئة गलत
        """,
    "c": """
        is are be was being equals seem
        seems looks appears es son sea serían est sont ist sind lautet lauten wäre é são è sono это
        является zijn adalah ialah là هي هو है हैं isn aren wasn 's 're 'est 'dir 'dır 'dur 'dür
        """,
    "d": """
        must should would will could can may might has have had to'd 'd 'll shall debe debería puede doit
        devrait peut muss sollte kann deve deveria pode dovrebbe può должен должна должно может moet kan harus
        pasti won wouldn couldn shouldn can't ca
        """,
    "x": """
        not 't cannot never no neither nor none no ni ninguna ninguno nunca ne pas non ni aucune aucun n nicht
        kein keine keiner weder noch não nem nenhuma né nessuna nessuno не ни нет niet geen değil nie żadna
        tidak bukan không ليس ليست नहीं nope unlikely anything everything
        """,
    "e": """
        eliminate eliminates eliminated eliminating exclude excludes excluded excluding reject rejects rejected
        discard discards discarded discarding dismiss dismissed rule rules ruled ruling descartar descarto
        descartamos descartada elimino eliminamos exclure exclut éliminer élimine ausschließen ausgeschlossen
        descartamos escludo escludere исключаем исключить исключен
        """,
    "v": """
        choose chose chosen choosing pick picks picked select selects selected go going opt mark vote take elijo
        elegir escojo escogemos marco choisis choisir choisissons wähle wählen nehme escolho marcamos scelgo
        scegliamo выбираю выбираем выбрать kies seçiyorum wybieram pilih memilih chọn prefer say leaves leaving
        corresponds correspond matches match matching conclude concluding
        """,
    "l": """
        therefore thus hence so consequently accordingly finally overall ergo tanto luego donc ainsi daher also
        somit deshalb portanto logo quindi dunque perciò поэтому следовательно итак значит dus dolayısıyla zatem
        więc jadi maka vậy elimination conclusion summary
        """,
    "i": "it this that which these ce c' cela das dies esto eso isso isto questo quella dit bu to ini đó",
    "f": """
        the a an my our your final like finally clearly definitely indeed actually certainly surely obviously most
        likely probably only just simply option's both either one of for with out on and in la las el los le les
        l' lo il gli der die den dem de het o os as um uma un una une eine ein einen definitivamente claramente
        clairement eindeutig também então logically per je ich yo eu io ik я мы we i as nummer number no. numéro
        án cevabın yang final's definitive given here still now thereby likely closest to correctly marked
        labeled labelled strongly really seriously highly
        """,
    "b": "but rather sondern sino mais mas ma а но maar ama lecz ale tetapi mà instead",
    "y": "than unlike except besides instead versus vs against rather",
    "q": """
        if suppose supposing assume assuming whether unless were imagine si wenn falls angenommen se если ob
        eğer jeśli jika nếu
        """,
    "t": """
        think believe feel see expect thinks believes claim sure certain know consider considered creo pense
        glaube acho
        """,
    "g": """
        possible plausible feasible consistent applicable suitable relevant supported posible possible möglich
        possibile possível возможно возможен
        """,
    "u": "doubt question duda doute zweifel dúvida",
    "s": "all any every each todas todos tous toutes alle tutte tutti",
    "m": "between torn entre zwischen tra между",
}
_UNSPACED = {
    "n": "正确答案 答案 正解 答え 回答 解答 정답 답은 답 최종답안",
    "o": "选项 選項 選択肢 选择项 선택지 보기 一项 项 項",
    "a": "正确 正確 正しい 对的 맞다 맞습니다 옳다 옳은 ✅ ✔ ✓ ☑",
    "w": "错误 錯誤 错的 不正确 不对 誤り 間違い 間違っ 틀리 틀렸 오답 ❌ ✗ ✘ ✖",
    "c": "应该是 应为 就是 是 为 為 は が 은 는 이 가",
    "d": "应该 应当 应 應 必须",
    "x": "不是 并非 不能 不可能 不选 不 非 没有 均不 ではない ではありません じゃない 아니 아닙",
    "e": "排除 除外",
    "v": "故选择 故选 應選 应选 所以选 选择 選択 選ぶ 选 選",
    "l": "因此 所以 综上所述 综上 故 よって したがって 따라서 그러므로 ∴ ⇒ → ⟹",
    "q": "如果 假设 若 もし 만약",
    "b": "而是",
    "f": "的 了 最终 最後 ( ) [ ] { } - • ~ | # > \ue000 \ue001 \ue002 \ue003",
    "k": ": —",
}
_MARKS = {
    **dict.fromkeys(",;、", ","),
    **dict.fromkeys(".!。।", "."),
    **{"." * dots: "f" for dots in range(2, 10)},
    "…": "f",
    "?": "?",
    "\n": "/",
    "=": "j",
    "–": "k",
}

CLASSES: dict[str, str] = {
    **{word: code for code, words in reversed(_SPACED.items()) for word in words.split()},
    **{word: code for code, words in _UNSPACED.items() for word in words.split()},
    **_MARKS,
}
"""Word or sign -> class. What is not here is "z"; a lone option letter is "L"."""

_LONGEST_FIRST = sorted((w for words in _UNSPACED.values() for w in words.split()), key=len, reverse=True)
TOKEN = re.compile(
    r"[A-Za-z\u00b5-\u06ff\u0900-\u0963\u0966-\u0dff\u1e00-\u1eff]{1,40}+|\d{1,20}+|\n|\.{2,9}+|['’][^\W\d_]{1,12}+|"
    rf"(?=[\u2190-\uffff])(?:{'|'.join(map(re.escape, _LONGEST_FIRST))})|\S"
)
"""One word or sign. Words of scripts without blanks are found by the list above, the rest of these sign by sign."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


AND = _set("and & + , ; / | y e et und и 和 与 與 及 以及 、 と 그리고 와 과 ve oraz dan và en plus")
OR = _set(
    """
    or o u ou oder или 或 或者 または か 또는 veya lub atau hoặc vs versus and/or to through thru – — ? nor ni possibly
    maybe perhaps alternatively else otherwise
    """
)
SUBORDINATE = _set(
    """
    because since as not but while unlike is are was so which than rather whereas though given if when for cannot
    """
)
"""Words after which a label belongs to the reasons and no more to the answer."""
SAID_OF_ONE = _set("is was has isn does doesn cannot can would looks seems gives fails est es ist не")
"""Words after an item of a list that are said of this one alone."""
AFTER_LETTER = AND | OR | _set("because since as with which for due if when while where by only alone though rather")
"""Words before which A and I are letters."""
