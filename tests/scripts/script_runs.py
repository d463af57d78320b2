"""Which scripts run with which arguments, and what of that which they print can be compared."""

import random
import re

SENTENCES = 600
# name -> (script, arguments of its runs one after the other); {text} and {prefix} are filled in
RUNS = {  # these draw random numbers, other ones in each package
    "digits, perceptron": ("digits_script.py", ["--prefix {prefix} --network mlp"]),
    "digits, batch norm": ("digits_script.py", ["--prefix {prefix} --network batch_norm"]),
    "digits, convolutions": ("digits_script.py", ["--prefix {prefix} --network lenet"]),
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

SAME = {  # nothing is left to chance in these
    "monitor": ("monitor_script.py", [""]),
    "monitor of weights": ("monitor_script.py", ["--interval 8 --pattern .*weight|fc1_output"]),
    "model parallel": ("model_parallel_script.py", ["--devices 2"]),
    "model parallel, one layer a device": ("model_parallel_script.py", ["--devices 5 --num-layers 3 --num-epochs 1"]),
}


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


def read_all_numbers(printed):
    """What read_numbers finds, each epoch's by itself, and every line of a monitor."""
    epochs = re.findall(r"(Epoch\[\d+\] [\w-]+)=(\d[\d.]*)", printed)
    watched = re.findall(r"Batch: +(\d+) (\w+) +([\d.e+-]+)", printed)
    found = {"{} {}".format(*line): float(line[2]) for line in watched}
    found.update({name: float(value) for name, value in epochs})
    found.update(read_numbers(printed))
    # the gradients of label and data, which nobody asked for: MXNet shows what happens to lie in that memory
    unwanted = ("softmax_backward_output1", "fc1_backward_output0")
    return {name: value for name, value in found.items() if not name.endswith(unwanted)}
