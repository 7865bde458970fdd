"""The errors a user can cause, each printed as one line: what was got, what was expected, what to do."""


class ZooError(Exception):
    """A mistake in the input of a command; the message is complete and needs no traceback."""


class RecipeError(ZooError):
    """A training recipe that cannot be used: unknown key, value out of range, unknown name."""


class DatasetError(ZooError):
    """A data set that cannot be used: missing folder, broken image, mask value out of range."""


class BundleError(ZooError):
    """A run, bundle or artifact that cannot be read, or that is not what its manifest says."""


class ExportError(ZooError):
    """An export that cannot be made: unsupported precision, missing package, refused by the runtime."""


class ParityError(ExportError):
    """An exported artifact whose masks differ from the eager model's by more than its gate allows."""


class InvalidImageError(ZooError):
    """An image that cannot be predicted: unreadable, not RGB, not 8 bits a channel."""


class PluginError(ZooError):
    """A row of a table that another package adds and that cannot be loaded."""


class RegistryError(ZooError):
    """A bundle that cannot be pulled or pushed: no such name, no network, no right, no space."""


def without_library(message: str) -> str:
    """Return what is wrong with a value without the words that pydantic begins with."""
    return message.removeprefix("Value error, ")
