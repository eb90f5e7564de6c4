"""The keys of a v1 config: each is taken, or is an error that names it."""

from . import HostError
from .options import nearest

REQUIRED = object()


class Keys:
    """The keys of one dict of a config; those not taken are an error.

    Args:
        name (str): where the dict stands in the config.
        values (dict): the dict.
    """

    def __init__(self, name, values):
        if not isinstance(values, dict):
            raise HostError(f'{name} should be a dict, got {values!r}')
        self.name = name
        self.values = dict(values)
        self.known = set()

    def take(self, key, default=REQUIRED):
        """Take a key's value.

        Raises:
            HostError: it is not there and has no default.
        """
        self.known.add(key)
        if key not in self.values and default is REQUIRED:
            raise HostError(f'{self.name}.{key} is missing')
        return self.values.pop(key, default)

    def expect(self, key, allowed, default=REQUIRED):
        """Take a key whose value must be one of those allowed."""
        value = self.take(key, default)
        if value not in allowed:
            raise HostError(
                f'{self.name}.{key}={value!r} cannot be honoured on mmaction2 '
                f'here, which takes {" or ".join(map(repr, allowed))}'
            )
        return value

    def finish(self):
        """Nothing may be left.

        Raises:
            HostError: something is.
        """
        if self.values:
            raise HostError(
                ', '.join(
                    f'{self.name}.{key}={value!r}' for key, value in self.values.items()
                )
                + ' is unknown, or cannot be honoured on mmaction2; '
                + nearest(next(iter(self.values)), self.known)
                + '. What else mmaction2 can do, native sets: see docs/mmaction2.md'
            )
