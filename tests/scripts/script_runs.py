"""Which scripts run with which arguments, and what of that which they print can be compared."""

import random
import re

SENTENCES = 600
# name -> (script, arguments of its runs one after the other); {text} and {prefix} are filled in
RUNS = {
    "digits, perceptron": ("digits_script.py", ["--prefix {prefix} --network mlp"]),
    "digits, batch norm": ("digits_script.py", ["--prefix {prefix} --network batch_norm"]),
    "fused": (
        "fused_script.py",
        ["{text} --model-prefix {prefix}", "{text} --model-prefix {prefix} --test --load-epoch 3"],
    ),
    "fused, stacked": (
        "fused_script.py",
        [
            "{text} --model-prefix {prefix} --stack-rnn --bidirectional --dropout 0.2",
            "{text} --model-prefix {prefix} --stack-rnn --bidirectional --dropout 0.2 --test --load-epoch 3",
        ],
    ),
}  # fmt: skip


def generated_text():
    """Sentences of a language in which each word has two possible successors."""
    source = random.Random(4)
    words = ["sun", "moon", "rain", "wind", "snow", "leaf", "tree", "bird", "fish", "stone"]
    text = []
    for _ in range(SENTENCES):
        at, sentence = source.randrange(10), []
        for _ in range(source.randint(3, 7)):
            sentence.append(words[at])
            at = (3 * at + source.choice((1, 2))) % 10
        text.append(" ".join(sentence) + ".")
    return "\n".join(text) + "\n"


def read_numbers(printed):
    """Last value of everything printed as name=value, by name; what differs by speed is left out."""
    found = re.findall(r"([\w-]+(?: (?:accuracy|perplexity))?)=(\d[\d.]*)", printed)
    return {name: float(value) for name, value in found if "cost" not in name}
