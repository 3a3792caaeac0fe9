"""The model of these tests."""

from tests.helpers.toy_translator import batch, translator  # noqa: F401 - fixtures
