"""The dispatch table: which row computes a call, and which back end a layer gets."""

import pytest
import torch

from cress_svcd import kernels
from cress_svcd.errors import ConfigError
from cress_svcd.kernels import backend_choice, dispatch
from cress_svcd.kernels.cpu import conv1d, sign_gemm

needs_cpu = pytest.mark.skipif(
    not kernels.backends()["cpu"].available, reason="the C kernels are not built"
)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OUT, IN = 24, 40


def chosen(operation, *deciding) -> str:
    return dispatch.implementation(operation, *deciding).name


@pytest.fixture
def instruction_set(monkeypatch):
    """Makes an instruction set the one that is asked for; skips where there is none of it."""

    def ask(name):
        if not kernels.backends()["cpu"].available or name not in sign_gemm.supported_isas():
            pytest.skip(f"there is no {name} here")
        monkeypatch.setenv(sign_gemm.ISA_VARIABLE, name)
        sign_gemm.isa_number.cache_clear()

    yield ask
    monkeypatch.undo()
    sign_gemm.isa_number.cache_clear()


class TestProductsOfSigns:
    def form(self, operands, backend, device=CPU):
        rows = kernels.pack_signs(operands(1, IN, OUT)[1]).to(device)
        return kernels.prepare(rows, IN, backend)

    @pytest.mark.parametrize("bits", [8, 16, None])
    @pytest.mark.parametrize("rows", [1, 8, 64])
    @pytest.mark.parametrize(
        "backend, row",
        [
            ("reference", "reference"),
            ("torch", "torch_int8"),
            pytest.param("cpu", "cpu/sign_gemm", marks=needs_cpu),
        ],
    )
    def test_the_form_of_the_signs_tells_the_back_end(self, operands, backend, row, rows, bits):
        x = torch.zeros(rows, IN)
        assert chosen("sign_gemm", x, self.form(operands, backend), bits) == row

    def test_double_precision_leaves_the_c_kernels(self, operands):
        x = torch.zeros(2, IN, dtype=torch.float64)
        assert chosen("sign_gemm", x, self.form(operands, "cpu"), 8) == "reference"
        assert chosen("sign_gemm", x.half(), self.form(operands, "cpu"), 8) == "cpu/sign_gemm"

    @pytest.mark.gpu
    @pytest.mark.parametrize(
        "rows, bits, dtype, row",
        [
            (1, 8, torch.float16, "triton/sign_gemm_fused"),
            (1, 8, torch.float32, "triton/sign_gemm_fused"),
            (100_000, 8, torch.float16, "triton/sign_gemm_bitplane"),
            (8, 16, torch.float16, "triton/sign_gemm_float by_rows"),
            (8, None, torch.float32, "triton/sign_gemm_float by_rows"),
            (9, None, torch.float16, "triton/sign_gemm_float by_tiles"),
            (9, None, torch.float32, "reference"),
            (9, 16, torch.float16, "reference"),
            (1, 8, torch.float64, "reference"),
        ],
    )
    def test_rows_and_types_decide_on_a_gpu(self, operands, rows, bits, dtype, row):
        x = torch.zeros(rows, IN, dtype=dtype, device=CUDA)
        assert chosen("sign_gemm", x, self.form(operands, "gpu", CUDA), bits) == row

    @pytest.mark.parametrize(
        "backend", ["reference", "torch", pytest.param("cpu", marks=needs_cpu)]
    )
    def test_the_chosen_row_computes_the_product(self, operands, backend):
        x, signs, g, h, bias = operands(5, IN, OUT)
        form = kernels.prepare(kernels.pack_signs(signs), IN, backend)
        found = dispatch.sign_gemm(x, form, OUT, g, h, bias, None)
        assert torch.allclose(found, (x * g) @ signs.t() * h + bias, rtol=1e-3, atol=2e-3)


class TestProductsOfBytes:
    weight = torch.zeros(OUT, IN, dtype=torch.int8)

    @pytest.mark.parametrize(
        "isa, row",
        [
            ("portable", "torch_int8"),
            ("avx2", "torch_int8"),
            ("avx512_vnni", "cpu/conv1d project"),
            ("amx", "torch_int8"),
        ],
    )
    def test_the_instruction_set_decides(self, instruction_set, isa, row):
        instruction_set(isa)
        assert chosen("int8_gemm", torch.zeros(3, IN), self.weight) == row

    def test_the_c_kernel_refuses_few_and_odd_inputs(self, instruction_set):
        instruction_set("avx512_vnni")
        for inputs in (conv1d.FEWEST_INPUTS - 4, 42):
            x, weight = torch.zeros(3, inputs), torch.zeros(OUT, inputs, dtype=torch.int8)
            assert chosen("int8_gemm", x, weight) == "torch_int8"

    def test_a_gradient_makes_the_weight_whole(self):
        x = torch.zeros(3, IN, requires_grad=True)
        assert chosen("int8_gemm", x, self.weight) == "torch"
        with torch.no_grad():
            assert chosen("int8_gemm", x, self.weight) != "torch"

    def test_elsewhere_the_weight_is_made_whole(self):
        x = torch.zeros(3, IN, device="meta")
        assert chosen("int8_gemm", x, self.weight.to("meta")) == "torch"


class TestConvolutions:
    plain = torch.zeros(16, 8, 3, dtype=torch.int8)
    tiles = conv1d.prepare(plain)

    def test_the_layout_of_the_weight_decides(self):
        x = torch.zeros(1, 8, 20)
        assert chosen("conv1d", x, self.tiles) == "cpu/conv1d"
        assert chosen("conv1d", x, self.plain) == "torch"

    def test_a_gradient_or_double_precision_is_left_to_torch(self):
        x = torch.zeros(1, 8, 20, requires_grad=True)
        assert chosen("conv1d", x, self.tiles) == "torch"
        assert chosen("conv1d", x.detach().double(), self.tiles) == "torch"
        with torch.no_grad():
            assert chosen("conv1d", x, self.tiles) == "cpu/conv1d"

    def test_torch_convolves_positions_on_the_cpu(self):
        with torch.no_grad():
            assert chosen("conv_positions", torch.zeros(1, 16, 20).half(), (16, 8, 4)) == "modules"

    @pytest.mark.gpu
    @torch.no_grad()
    def test_on_a_gpu_type_and_width_decide_about_positions(self):
        x = torch.zeros(1, 16, 20, device=CUDA, dtype=torch.float16)
        assert chosen("conv_positions", x, (16, 8, 4)) == "triton/conv1d"
        assert chosen("conv_positions", x.float(), (16, 8, 4)) == "modules"
        wide = torch.zeros(1, 256, 20, device=CUDA, dtype=torch.float16)
        assert chosen("conv_positions", wide, (256, 256, 4)) == "modules"

    @pytest.mark.gpu
    @torch.no_grad()
    def test_on_a_gpu_torch_convolves_the_rest(self):
        weight = self.plain.half().to(CUDA)
        assert chosen("conv1d", torch.zeros(1, 8, 20, device=CUDA).half(), weight) == "torch"


class TestFusedLayers:
    """On any machine but for where the layer lies, which the tests of CUDA graphs see."""

    fitting = dispatch.FusedLayer(True, True, dispatch.RELU, True, 64)

    @pytest.fixture(autouse=True)
    def anywhere(self, monkeypatch):
        monkeypatch.setattr(dispatch, "is_on_gpu", lambda x: True)

    def missing(self, x, **changes):
        return dispatch.TABLE["fused_layer"][0].missing(x, self.fitting._replace(**changes))

    def test_each_part_is_needed(self):
        x = torch.zeros(2, 64)
        assert self.missing(x) is None
        assert self.missing(x, are_products=False) == "packed projections of 8-bit inputs"
        assert self.missing(x, lie_together=False) == "query, key and value alike"
        assert self.missing(x, activation=None) == "ReLU or GELU"
        assert self.missing(x, has_layer_norms=False) == "layer norms with biases"
        assert self.missing(x, width=10**5) == "inputs at most 16384"
        assert self.missing(x.double()) == "norms in float32 or half"

    def test_it_must_lie_on_a_gpu(self, monkeypatch):
        monkeypatch.setattr(dispatch, "is_on_gpu", lambda x: False)
        assert self.missing(torch.zeros(2, 64)) == "on CUDA with Triton"

    def test_a_gelu_is_no_missing_activation(self):
        assert self.missing(torch.zeros(2, 64), activation=dispatch.NONE) is None


class TestTraining:
    def test_torch_trains_on_the_cpu(self):
        x, weight = torch.zeros(3, IN), torch.zeros(OUT, IN)
        assert chosen("training", x, weight) == "torch"
        assert dispatch.training_kernels(x, weight) is None

    @pytest.mark.gpu
    def test_triton_trains_on_a_gpu(self):
        x, weight = torch.zeros(3, IN, device=CUDA), torch.zeros(OUT, IN, device=CUDA)
        assert chosen("training", x, weight) == "triton/training"
        assert dispatch.training_kernels(x, weight) is dispatch.training
        assert dispatch.training_kernels(x.double(), weight) is None


def test_every_table_ends_with_a_row_that_always_fits():
    for rows in dispatch.TABLE.values():
        assert rows[-1].when.startswith("always: ") and not rows[-1].conditions
        assert all(row.conditions for row in rows[:-1])
        assert len({row.name for row in rows}) == len(rows)


class TestChoosing:
    def test_an_unknown_back_end_is_told_the_choices(self):
        choices = "expected auto or one of: reference, torch, cpu, gpu"
        with pytest.raises(ConfigError, match=f"^backend: found 'gpus', {choices}$"):
            kernels.choose(CPU, "gpus")

    def test_a_back_end_of_another_device_is_refused(self):
        with pytest.raises(ConfigError, match="^backend: cpu (is not for a layer on cuda|cannot)"):
            kernels.choose(CUDA, "cpu")

    def test_the_backend_of_each_device(self, monkeypatch):
        monkeypatch.delenv(backend_choice.BACKEND_VARIABLE, raising=False)
        available = {name: found.available for name, found in kernels.backends().items()}
        assert kernels.choose(CUDA) == ("gpu" if available["gpu"] else "reference")
        for device in (CPU, torch.device("meta")):
            assert kernels.choose(device) == ("cpu" if available["cpu"] else "torch")
        for plain in ("reference", "torch"):
            assert kernels.choose(CPU, plain) == kernels.choose(CUDA, plain) == plain

    def test_back_ends_are_listed_in_their_order(self):
        found = kernels.backends()
        assert tuple(found) == kernels.BACKENDS == ("reference", "torch", "cpu", "gpu")
        assert all(found[name].name == name and found[name].detail for name in found)


@pytest.mark.parametrize("backend", kernels.BACKENDS)
def test_blank_signs_are_all_minus_one(backend):
    blank = kernels.blank(OUT, IN, backend, CPU)
    expected = kernels.prepare(kernels.pack_signs(-torch.ones(OUT, IN)), IN, backend)
    assert blank.dtype == expected.dtype and torch.equal(blank, expected)
    assert kernels.restore(blank, OUT, IN).sum() == 0
