# google-auth with a stand-in for a service account's file: its key signs for nobody, and the proxy token
# stands in `private_key_id`, which goes into the assertion's header.
import os

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account

key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
pem = key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
stand_in = {
    "type": "service_account",
    "private_key_id": os.environ["TOKEN"],
    "private_key": pem.decode(),
    "client_email": "agent@example.test",
    "token_uri": os.environ["TOKEN_URI"],
}
credentials = service_account.Credentials.from_service_account_info(stand_in, scopes=["a"])
session = AuthorizedSession(credentials)
answer = session.get(os.environ["API"], timeout=20)
print("answer:", answer.status_code, answer.text)
print("token:", credentials.token, "expires:", credentials.expiry)
