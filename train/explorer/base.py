"""What a view is: a description of a trained method, and the verbs that a page may call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from train.errors import require

Fields = Mapping[str, Any]
"""The JSON object of a request."""


class View(ABC):
    """One run on the page.

    A trained method names its view (:meth:`train.verbs.base.Trained.view`), and the page draws it
    with the module ``static/KIND.js``.

    Args:
        name: What the page calls the run.

    Attributes:
        kind: The name of the page's module.
        name: See above.
    """

    kind: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Returns all that the page needs before anything is asked, for JSON."""

    @property
    @abstractmethod
    def verbs(self) -> Mapping[str, Callable[[Fields], dict[str, Any]]]:
        """What answers a request, by the name of the verb.

        A verb takes the request's fields, and returns what JSON can hold. It raises
        :class:`~train.errors.InputError` for fields that it cannot use.
        """

    def answer(self, verb: str, fields: Fields) -> dict[str, Any]:
        """Answers a request.

        Raises:
            InputError: If there is no such verb, or it cannot use the fields.
        """
        known = self.verbs
        require(verb in known, f"there is no verb {verb:.40}: give {', '.join(known)}")
        return known[verb](fields)
