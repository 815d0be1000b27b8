"""The quiz of lesson 03: what follows from a cut. Its exercises are experiments, which their own cells judge."""

from helpers.exercises import Option, Quiz

CUT_WIRE = Quiz(
    name="03.cut_wire",
    question="You cut a connection of another network, and its error on one picture stays as it was at every timestep. "
    "What follows?",
    options=(
        Option(
            "The connection carries nothing that matters for the task",
            "The error shows what the network needs on this picture, not what the connection carries. That may matter "
            "a great deal, and reach the answer by another way as well.",
        ),
        Option(
            "The network, as it is, does as well on this picture without what the connection carries",
            "On this picture it does not need it, or gets it from elsewhere. Whether the network takes anything from "
            "the connection is another question, and needs another test: the next section's.",
            right=True,
        ),
        Option(
            "A network trained without this connection would do as well",
            "This does not follow. This one was trained with the connection, and training may have needed it. Nor "
            "would a larger error after the cut show the opposite: a new network might learn another way.",
        ),
    ),
)

QUIZZES = (CUT_WIRE,)
