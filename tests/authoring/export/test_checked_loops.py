"""A token beside the vocabulary is an error of the call, however many threads run the code."""

import pytest
import torch
from torch import Tensor, nn

from py_authoring.export import compiled
from py_authoring.tools import find_compiler
from tests.authoring.export.test_kernels import in_package

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it records and compiles

TOKENS, PLACES, WORDS = 300, 50, 120


class Lookups(nn.Module):
    """In a loop of its own with a reduction, and behind matrix products; large enough for threads."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, 128), nn.Embedding(PLACES, 128)
        self.norm, self.layer, self.last = nn.LayerNorm(128), nn.Linear(128, 128), nn.Linear(128, 128)
        self.counted = nn.Embedding(WORDS, 128)

    def forward(self, token: Tensor, place: Tensor) -> Tensor:
        y = self.layer(self.norm(self.tokens(token))) + self.places(place)
        return self.last(y.relu()) + self.counted(torch.arange(token.shape[1]))


@pytest.fixture(scope="module")
def lookups() -> tuple[nn.Module, compiled.Package]:
    torch.manual_seed(0)
    model, inputs = Lookups().eval(), given()
    free = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    exported = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, free))
    files = compiled.compile_program(exported, inputs, find_compiler())
    return model, compiled.Package(in_package(files))


def given() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "token": torch.randint(0, TOKENS, (64, 100), generator=generator),
        "place": torch.randint(0, PLACES, (64, 100), generator=generator),
    }


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_what_is_in_the_vocabulary_is_looked_up(lookups) -> None:
    model, opened = lookups
    with torch.no_grad():
        torch.testing.assert_close(opened.run(["token", "place"], given())[0], model(**given()), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["token", "place"])
@pytest.mark.parametrize("index", [TOKENS, -TOKENS - 1, 2**62])
@pytest.mark.parametrize("row", [0, 63])
def test_what_lies_beside_it_fails_the_call_and_no_other(lookups, name: str, index: int, row: int, capfd) -> None:
    _, opened = lookups
    wrong = given()
    wrong[name][row, 99] = index
    with pytest.raises(RuntimeError, match="index out of bounds"):
        opened.run(["token", "place"], wrong)
    assert "out of bounds" not in capfd.readouterr().err  # said once, by whoever catches it
    opened.run(["token", "place"], given())


@pytest.mark.usefixtures("threads")
def test_more_words_than_are_counted_fail_the_call_and_no_other(lookups) -> None:
    _, opened = lookups
    longer = {name: torch.cat([words, words], 1) for name, words in given().items()}
    with pytest.raises(RuntimeError, match="index out of bounds"):
        opened.run(["token", "place"], longer)
    opened.run(["token", "place"], given())
