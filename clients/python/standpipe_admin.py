"""Lets the official Firebase Admin SDK for Python talk to a Standpipe server.

    import firebase_admin
    from firebase_admin import db
    from standpipe_admin import StandpipeCredential

    credential = StandpipeCredential.from_file("data/admin.token")
    firebase_admin.initialize_app(credential, {"databaseURL": "https://db.example.com"})
    db.reference("/board").set({"open": True})

The SDK wants https; for a certificate that this machine does not trust, name it in REQUESTS_CA_BUNDLE. A credential is
the token in the server's data folder, or a token of your own (``standpipe token``); with a function that gives tokens,
it is asked again before one expires and when the server refuses one.
"""

import base64
import datetime
import json

import google.auth.credentials
from firebase_admin import credentials

__all__ = ["StandpipeCredential"]


class StandpipeCredential(credentials.Base):
    """A credential for ``firebase_admin.initialize_app``.

    ``token`` is a token, or a function without arguments that gives one.
    """

    def __init__(self, token):
        super().__init__()
        give = token if callable(token) else lambda: token
        self._credential = _Bearer(give)

    @classmethod
    def from_file(cls, path):
        """The token in a file, read again whenever one is needed: a file may be replaced."""

        def read():
            with open(path, encoding="ascii") as file:
                return file.read()

        return cls(read)

    def get_credential(self):
        """What the SDK signs its requests with."""
        return self._credential


class _Bearer(google.auth.credentials.Credentials):
    """Asks for a token when there is none, when it has expired, and when the SDK was refused (401)."""

    def __init__(self, give):
        super().__init__()
        self._give = give

    def refresh(self, request):
        token = self._give().strip()
        if not token:
            raise ValueError("the credential is empty")
        self.token = token
        self.expiry = _expiry(token)


def _expiry(token):
    """When a JWT ends, as google-auth counts (UTC without a zone); ``None`` for what is none."""
    try:
        claims = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        at = datetime.datetime.fromtimestamp(claims["exp"], datetime.timezone.utc)
        return at.replace(tzinfo=None)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
