"""The exercise of lesson 06b, a scale that rises during the run, and its quiz, about the negative prompt."""

from helpers.exercises import Exercise, Mistake, Option, Quiz

FIRST, LAST = 889, 1  # the ends of the lesson's nine timesteps, which lie evenly between


def rising(t: int, s: float) -> float:
    """A guidance scale on a straight line in t: 1 at the first timestep, and in the mean of all nine s."""
    return 1 + 2 * (s - 1) * (FIRST - t) / (FIRST - LAST)


RISING = Exercise(
    name="06b.rising",
    solution=rising,
    cases=[(t, s) for s in (4.0, 2.0) for t in (889, 778, 445, 112, 1)],
    hints=(
        "On a straight line the mean is the value in the middle. The middle of the nine timesteps is 445.",
        "From 1 at 889 up to s at 445: how much is still to come from there down to 1?",
        "At the last timestep the scale is 1 + 2 (s - 1). Share that way out evenly.",
    ),
    mistakes=(
        Mistake(
            lambda t, s: 1 + (s - 1) * (FIRST - t) / (FIRST - LAST),
            "this ends at s. Then the mean of the nine is smaller than s: how high must the line end?",
        ),
        Mistake(
            lambda t, s: 1 + 2 * (s - 1) * (t - LAST) / (FIRST - LAST),
            "this falls during the run. t counts down, from 889 to 1.",
        ),
        Mistake(
            lambda t, s: 2 * s * (FIRST - t) / (FIRST - LAST),
            "the mean is right, but this starts at 0, without words. It has to start at 1.",
        ),
        Mistake(
            lambda t, s: 1 + 2 * s * (FIRST - t) / (FIRST - LAST),
            "the mean of this is s + 1: the 1 at the start counts too.",
        ),
        Mistake(
            lambda t, s: s,
            "this is the same scale at all timesteps. It has to be 1 at t = 889.",
        ),
    ),
)

NEGATIVE = Quiz(
    name="06b.negative",
    question="The prompt is `a rose`, the negative prompt is `a rose` too, and s = 7.5. What is drawn?",
    options=(
        Option(
            "Anything but a rose",
            "For that the walk would have to lead away from the answer to `a rose`, and here it leads nowhere.",
        ),
        Option(
            "A rose as at s = 1",
            "Both answers are the same, so their difference is zero, and the plain answer to `a rose` is left.",
            right=True,
        ),
        Option(
            "A rose as at s = 7.5, since the prompt counts more than the negative prompt",
            "The scale multiplies the difference of both answers, and that is zero here.",
        ),
        Option(
            "A fog, because the two prompts cancel",
            "They cancel in the difference only. The answer that it is added to is that for `a rose`.",
        ),
    ),
)

EXERCISES = (RISING,)
QUIZZES = (NEGATIVE,)
