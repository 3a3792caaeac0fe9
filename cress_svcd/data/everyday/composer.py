"""An endless source of sentences."""

from cress_svcd.data.everyday.compounds import Compounds
from cress_svcd.data.everyday.material import Material
from cress_svcd.data.everyday.meaning import Sentence
from cress_svcd.data.everyday.questions import Questions
from cress_svcd.data.everyday.statements import Statements


class Composer:
    """Draws sentences of all kinds; the same seed gives the same ones."""

    def __init__(self, seed: int):
        material = Material(seed)
        statements = Statements(material)
        questions = Questions(material, statements)
        compounds = Compounds(material, statements, questions)
        self._dice = material.dice
        self._kinds = [
            (statements.doing, 26.0),
            (statements.being, 9.0),
            (statements.animal, 2.5),
            (statements.weather, 1.5),
            (statements.amount, 9.0),
            (statements.schedule, 7.5),
            (statements.hour, 0.7),
            (statements.existence, 4.0),
            (statements.comparison, 4.0),
            (statements.request, 4.0),
            (questions.yes_no, 8.0),
            (questions.wh, 12.0),
            (compounds.reason, 8.0),
            (compounds.sequence, 4.0),
            (compounds.report, 4.0),
            (compounds.indirect, 4.0),
            (compounds.contrast, 2.0),
            (compounds.relative, 5.0),
        ]

    def sentence(self) -> Sentence:
        """The next sentence; sooner or later one comes again."""
        return self._dice.weighted(self._kinds)()
