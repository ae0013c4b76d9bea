"""When a call has so few tokens that kernels walk over them one by one.

Kernels of chunks compute a whole chunk, however few of its tokens there are, and hand tiles from launch to launch; a
walk over tokens is one launch a pass, and waits for each token. Nothing is timed: the rule counts dependent steps for
both passes, and a step is a walk's work on one chunk. The constants are estimates; no GPU has run it yet.
"""

TOKEN = 1 / 8  # what a walk over tokens does at one of them, in steps
AGAIN = 3.0  # the work of a backward pass, over that of a forward pass
LAUNCH = 1.0  # what a launch takes, in steps of some microseconds


def walks_tokens(tokens, programs, rows, launches, processors):
    """Whether a call is walked token by token.

    tokens: of a sequence; programs: sequences times heads; rows: tokens in a chunk of the forward and of the backward
    pass; launches: of each of them in chunks; processors: of the device, each of which runs a program at a time.
    """
    chunked = by_chunks(tokens, programs, rows, launches, processors)
    return tokens > 0 and by_tokens(tokens, programs, processors) < chunked


def by_tokens(tokens, programs, processors):
    """The dependent steps of walks over tokens, forward and backward."""
    return max(1.0, programs / processors) * tokens * TOKEN * (1 + AGAIN) + 2 * LAUNCH


def by_chunks(tokens, programs, rows, launches, processors):
    """The dependent steps of kernels of chunks."""
    forward, backward = (-(-tokens // each) for each in rows)
    return max(1.0, programs / processors) * (forward + AGAIN * backward) + sum(launches) * LAUNCH
