r"""The rules of the Penn Treebank tokenizer that the published caption scores use: Stanford CoreNLP 3.4.1.

They describe the tokens that its `PTBTokenizer -preserveLines -lowerCase` returns, as far as a caption metric sees
them: full stops are dropped afterwards, so whether one also ends a sentence is of no interest. At a position the rule
with the longest match applies, the context that it looks ahead to included; the first of several.

The characters in `_ptb_characters.json` were measured: each of the basic plane, in five contexts, through the Java
class. Its Unicode is that of 2010, and it knows no character above U+FFFF: emoji vanish.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from chatbridge.tasks.metrics._ptb_spelling import (
    as_it_is,
    fraction,
    opening_quotes,
    plain_currency,
    quotes,
    unbroken,
    without_brackets,
    without_entities,
    without_soft_hyphens,
)

_CHARACTERS: dict[str, str] = json.loads(Path(__file__).with_name("_ptb_characters.json").read_text("ascii"))


def _inside(kind: str) -> str:
    r"""A character class without its brackets: "0660-0669 06F0" -> "\u0660-\u0669\u06F0"."""
    return re.sub("[0-9A-F]{4}", lambda found: rf"\u{found[0]}", _CHARACTERS[kind]).replace(" ", "")


LETTERS = "A-Za-z" + _inside("letters")
SPACES = r" \t\u00A0\u2000-\u200A\u3000"
BREAKS = r"\r\n\u2028\u2029\u000B\u000C\u0085"
DIGIT = f"[0-9{_inside('digits')}]"
ALNUM = f"[{LETTERS}0-9{_inside('digits')}]"
SPACE, GAP = f"[{SPACES}]", f"[{SPACES}{BREAKS}]"
LETTER = rf"(?:[{LETTERS}\u00AD{_inside('marks')}]|&[aeiouAEIOU](?i:acute|grave|uml);)"
OF_WORD = rf"(?:{LETTER}|{DIGIT})"
WORD = rf"{LETTER}{OF_WORD}*(?:[.!?]{LETTER}{OF_WORD}*)*"
APOSTROPHE = r"(?:['\u0092\u2019]|(?i:&apos;))"
LIKE_APOSTROPHE = r"(?:['`\u0091\u0092\u2018\u2019\u201B]|(?i:&apos;))"
ENDING = rf"{APOSTROPHE}(?:(?i:re|ve|ll)|[msdMSD])"  # of "it's"
NOT = rf"[nN]{LIKE_APOSTROPHE}[tT]"
JOINT = r"[.:,\u00AD\u066B\u066C]"  # inside a number
NUMBER = rf"[-+]?(?:{DIGIT}+(?:{JOINT}{DIGIT}+)*|(?:{JOINT}{DIGIT}+)+)"
HYPHEN = r"[-_\u058A\u2010\u2011]"
COMMA = r"[,;:\u3001]"  # after it the sentence goes on, so a full stop before it belongs to the word
INITIALS = r"(?:[A-Za-z](?:\.[A-Za-z])+|(?i:Canada|Sino|Korean|EU|Japan|non)-(?i:U\.S)|(?i:U\.S\.-U\.)(?i:S\.S\.R|K))"
PARTICLE = rf"[dDoOlL]{LIKE_APOSTROPHE}{ALNUM}"  # O'Malley, d'Avignon
COMPOUND = rf"(?:{PARTICLE})?{ALNUM}+(?:{HYPHEN}(?:{PARTICLE})?{ALNUM}+)*"
HYPHENATED = r"[A-Za-z0-9][A-Za-z0-9.,\u00AD]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00AD]+))+"
CAPITALS = r"[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+"  # AT&T
SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
TAG_NAME = r"[A-Za-z][A-Za-z0-9_:.-]*"
ATTRIBUTE = rf"""(?:{TAG_NAME}(?:[ ]*=[ ]*['"][^\r\n'"]*['"])?|['"][^\r\n'"]*['"]|/)"""
TAG = rf"<(?:[!?][A-Za-z-][^>\r\n]*|{TAG_NAME}(?:[ ]+{ATTRIBUTE})*(?:[ ]*/)?[ ]*|/{TAG_NAME}[ ]*)>"
OUTSIDE_URL = r" \t\n\f\r\"<>|()"
URL_PATH = rf"/[^{OUTSIDE_URL}]+[^{OUTSIDE_URL}.!?{{}},-]"
EMAIL = (
    r"(?:(?i:&lt;)|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|()\u00A0{}]*@(?:[^ \t\n\f\r\"<>|(){}.\u00A0]+\.)*"
    r"[^ \t\n\f\r\"<>|(){}.\u00A0]+(?:(?i:&gt;)|>)?"
)
LONG_NUMBER = r"[0-9]{3,4}[- \u00A0]?[0-9]{3,5}"
PHONE = (
    rf"(?:\([0-9]{{2,3}}\)[ \u00A0]?|(?:\+\+?)?(?:[0-9]{{2,4}}[- \u00A0])?[0-9]{{2,4}}[- \u00A0]){LONG_NUMBER}"
    r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)
FILE_ENDING = (
    "bat|bmp|class|cgi|cpp|c|dll|docx|doc|exe|gif|gz|html|htm|h|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql"
    "|tar|txt|wav|xml|x|zip"
)
WITH_APOSTROPHE = (  # words that keep it
    rf"{APOSTROPHE}(?i:n){APOSTROPHE}?|(?i:dunkin|somethin|ol){APOSTROPHE}"
    rf"|{APOSTROPHE}(?i:em|till?|cause)|[A-HJ-XZn]{LIKE_APOSTROPHE}[{LETTERS}]{{2,}}|{APOSTROPHE}[2-9]0[sS]"
    rf"|[{LETTERS}]+[aeiouyAEIOUY]{LIKE_APOSTROPHE}[aeiouA-Z][{LETTERS}]*"
    rf"|(?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)|[lLdDjJ]{APOSTROPHE}"
)
SPECIAL = (
    r"-(?i:RRB|LRB|RCB|LCB|RSB|LSB)-|(?i:C\.D\.s|pro-|anti-)|[sS](?:&|(?i:&amp;))(?:[pP]-500|[lL][sS])"
    rf"|(?i:Cap){APOSTROPHE}[nN]|[cC]{APOSTROPHE}(?i:est)"
)
EYES = r"[\^x=~<>']"
FACE = rf"[\^x=~<>]\.\[\^x=~<>\]|[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)|\({EYES}-[\^x=~<>'`]\)"
CURLY = r"[`\u2018-\u201F\u0091-\u0094\u2039\u203A\u00AB\u00BB]"
SYMBOL = rf"[+%&~\^|\\.=/\u2044{_inside('symbols')}]"

BEFORE_LOWER_CASE = (  # abbreviations; of some states only the form with a capital
    r"(?i:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu|Thurs|Fri"
    r"|Ala|Ariz|Calif|Colo|Conn|Ct|Dak|Fla|Ga|Ind|Kans?|Ky|Md|Mich|Minn|Mo|Mont|Neb|Nev|Okla|Penn|Tenn|Va|Vt|Wisc?|Wyo"
    r"|Inc|Cos?|Corp|Pp?t[ye]s?|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys|tel|est|ext|sq"
    r"|[JS]r|Bros|(?:Ed|Ph)\.D|Esq|etc|al|seq|Bldg|Blvd|Rd)"
    r"|A(?i:z|rk)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash)"
)
BEFORE_NAMES = (  # titles, and what is short for part of a name
    r"(?i:Mr|Mrs|Ms|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?|Ave|Pres"
    r"|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Mlle|Mme|Msgr|Sfc"
    r"|Invt|Elec|Natl|M[ft]g|Dept|vs|Alex|Wm|Jos|Cie|a\.k\.a|cf|treas|Ph)"
)
BEFORE_NUMBERS = r"(?i:ca|figs?|prop|nos?|art|pp|op)"
STARTS = (  # of a sentence: before them a single capital with a full stop is no initial
    "About|According|Additionally|After|An|A|As|At|But|Did|During|Earlier|Hereafter|Her|Here|He|However|How|If|In|It"
    r"|Last|Many|More|Mr\.|Ms\.|Now|Once|One|Other|Our|She|Since|Some|So|Such|That|Their|Then|There|These|They|The|This"
    "|When|While|What|We|Who|Why|Yet|You"
)


class Rule(NamedTuple):
    """A kind of token.

    pattern   what has to match; group 1, if it has one, is the token
    keep      characters of the match that are the token, the others are read again; 0: all
    spelling  token -> the same token as the tokenizer writes it
    """

    pattern: re.Pattern[str]
    spelling: Callable[[str], str]
    keep: int = 0


def _rule(pattern: str, spelling: Callable[[str], str] = as_it_is, before: str = "", back: int = 0) -> Rule:
    """before: the context that must follow. back: characters at the end of the match that are read again"""
    return Rule(re.compile(rf"({pattern}){before}" if before else pattern), spelling, -back)


RULES: tuple[Rule, ...] = (
    _rule(r"[cC]\+\+|[cCfF]#"),
    _rule(r"(?i:cannot|'twas)", back=3),
    _rule("(?i:'tis|gonna|gotta|lemme|gimme|wanna)", back=2),
    _rule(rf"(?i:more){APOSTROPHE}[nN]", back=2),
    _rule(TAG, unbroken),
    _rule(r"&(?i:MD|mdash|ndash);|[\u0096\u0097\u2013-\u2015]", lambda token: "--"),
    _rule(r"(?i:&amp;)", without_entities),
    _rule(r"&(?:(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq)|#[0-9]+);"),
    _rule(WORD, without_soft_hyphens, before=ENDING),
    _rule(r"[A-Za-z\u00AD]*[A-MO-Za-mo-z]\u00AD*", without_soft_hyphens, before=NOT),
    _rule(WORD, without_soft_hyphens),
    _rule(WITH_APOSTROPHE),
    _rule(rf"[yY]{APOSTROPHE}", before=f"[{LETTERS}]"),
    _rule(rf"(?i:https?)://[^{OUTSIDE_URL}{{}}]+[^{OUTSIDE_URL}.!?{{}},-]"),
    _rule(rf"(?i:www)\.(?:[^{OUTSIDE_URL}.!?{{}},]+\.)+[a-zA-Z]{{2,4}}(?:{URL_PATH})?"),
    _rule(rf"(?:[^ \t\n\f\r\"`'<>|.!?(){{}},-_$]+\.)+(?i:com|net|org|edu)(?:{URL_PATH})?"),
    _rule(EMAIL),
    _rule(rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{LETTER}+"),
    _rule(ENDING, quotes, before="[^A-Za-z]"),
    _rule(NOT, quotes),
    _rule(rf"{DIGIT}{{1,2}}[-/]{DIGIT}{{1,2}}[-/]{DIGIT}{{2,4}}"),
    _rule(NUMBER, without_soft_hyphens),
    _rule(r"[\u207A\u207B\u208A\u208B]?(?:[\u2070\u00B9\u00B2\u00B3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    _rule(rf"(?:{DIGIT}{{1,4}}[- \u00A0])?{DIGIT}{{1,4}}(?:\\?/|\u2044){DIGIT}{{1,4}}", unbroken),
    _rule(r"[\u00BC-\u00BE\u2153-\u215E]", fraction),
    _rule(SPECIAL, without_entities),
    _rule(rf"{SLASHED}(?:\\?/{SLASHED}){{1,2}}"),
    _rule(r"[A-Z]*\$|#"),
    _rule(r"[\u00A2-\u00A5\u0080\u20A0\u20AC\u060B\u0E3F\u20A4\uFFE0\uFFE1\uFFE5\uFFE6]", plain_currency),
    _rule(r"[A-Za-z](?=\.)", before=rf"\.{GAP}+(?:{STARTS}|{TAG}){GAP}"),
    _rule(rf"{BEFORE_NUMBERS}\.", before=f"{GAP}?{DIGIT}"),
    _rule(rf"(?:{BEFORE_LOWER_CASE})\.", before=r"(?:[\s\S][\s\S])?"),
    _rule(rf"(?:{INITIALS}|{BEFORE_NAMES}|[A-Za-z])\."),
    _rule(rf"(?:{INITIALS}|{BEFORE_NAMES}|[A-Za-z])", before=GAP),
    _rule(rf"{APOSTROPHE}[0-9][0-9]", before=GAP),
    _rule(rf"{OF_WORD}+(?:\.{OF_WORD}+)*\.(?i:{FILE_ENDING})", before=rf"(?:{GAP}|[.?!,])"),
    _rule(rf"{WORD}\.", without_soft_hyphens, before=COMMA),
    _rule(PHONE, without_brackets),
    _rule(r"\"|(?i:&quot;)", opening_quotes, before="[A-Za-z0-9$]"),
    _rule(r"\"|(?i:&quot;)", quotes),
    _rule(r"<|(?i:&lt;)", lambda token: "<"),
    _rule(r">|(?i:&gt;)", lambda token: ">"),
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", without_brackets, before="[^A-Za-z0-9]"),
    _rule(FACE, without_brackets),
    _rule(r"[(){}\[\]]", without_brackets),
    _rule(r"-+", lambda token: "--" if 3 <= len(token) <= 4 else token),
    _rule(r"\.{3,5}|(?:\.[ \u00A0]){2,4}\.|[\u0085\u2026]", lambda token: "..."),
    _rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
    _rule(COMMA),
    _rule(r"[?!]+"),
    _rule(rf"{HYPHENATED}\.", without_soft_hyphens, before=COMMA),
    _rule(HYPHENATED, without_soft_hyphens),
    _rule(rf"{COMPOUND}\.", before=COMMA),
    _rule(COMPOUND),
    _rule(rf"{CAPITALS}\.", without_entities, before=COMMA),
    _rule(CAPITALS, without_entities),
    _rule("'", opening_quotes, before=r"[A-Za-z][^ \t\n\r\u00A0]"),
    _rule(ENDING, quotes),
    _rule(rf"{CURLY}{{1,2}}|''|{APOSTROPHE}", quotes),
    _rule(r"<<|>>"),
    _rule(SYMBOL),
    _rule(r"(?i:&nbsp;)", lambda token: ""),
)
