"""The tables of cases, by model type."""

from . import albert, bert, deberta_v2, distilbert, electra, modernbert, mpnet, roberta

CASES = {
    "bert": bert.CASES,
    **roberta.CASES,
    "distilbert": distilbert.CASES,
    "albert": albert.CASES,
    "electra": electra.CASES,
    "mpnet": mpnet.CASES,
    "deberta-v2": deberta_v2.CASES,
    "modernbert": modernbert.CASES,
}
