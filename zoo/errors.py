"""Errors that users can cause, each printed as one line: what was got, what was expected, what to do."""


class ZooError(Exception):
    """A mistake in the input of a command; the message is complete and needs no traceback."""


class RecipeError(ZooError):
    """A training recipe that cannot be used: unknown key, value out of range, unknown name."""


class DatasetError(ZooError):
    """A data set that cannot be used: missing folder, broken image, mask value out of range."""


class BundleError(ZooError):
    """A run, bundle or artifact that cannot be read, or that is not what its manifest says."""


class ExportError(ZooError):
    """An export that is not possible: unsupported precision, missing package, refused by the runtime."""


class ParityError(ExportError):
    """An exported artifact whose masks differ from the eager model's by more than the tolerance."""


class InvalidImageError(ZooError):
    """An invalid input image: unreadable, not RGB, or not 8 bits a channel."""


class PluginError(ZooError):
    """An entry point of another package that cannot be loaded."""


class RegistryError(ZooError):
    """A bundle that cannot be pulled or pushed: unknown name, no network, no permission, no space."""


def without_library(message: str) -> str:
    """Return a validation message without pydantic's prefix."""
    return message.removeprefix("Value error, ")
