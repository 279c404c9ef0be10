"""Makes keys and tokens with PyJWT. Reads one request in JSON from each line, and writes the answer to a line."""

import base64
import hashlib
import hmac
import json
import sys

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

GENERATORS = {
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
ALGORITHMS = {"rsa": "RS256", "p256": "ES256", "p384": "ES384", "ed25519": "EdDSA"}
keys = {}


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def answer(request):
    if request["do"] == "key":
        kind = request["kind"]
        keys[request["name"]] = GENERATORS[kind]()
        public = keys[request["name"]].public_key()
        return json.loads(jwt.get_algorithm_by_name(ALGORITHMS[kind]).to_jwk(public))
    if request["do"] == "sign":
        key = request["secret"] or keys.get(request["key"])
        return jwt.encode(request["claims"], key, request["alg"], headers=request["headers"])
    # The public key is used as the secret of HS256. PyJWT itself refuses to do this.
    public = keys[request["key"]].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": "JWT"} | request["headers"]
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, request["claims"]))
    return f"{signed}.{base64url(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
