#!/usr/bin/env python3
"""Checks the published vectors without any of Moorline's code: Python's standard library only.

A second implementation in another language may begin by porting this file. With `--write` the
expected values are computed anew from the inputs; a change of theirs is a change of the format.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent

# --- RFC 8785 canonical JSON, for content whose numbers are integers within ±2^53 -------------------


def canonical(value):
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(canonical(key) + ":" + canonical(value[key]) for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, float) or isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        raise ValueError(f"{value} is not an integer within ±2^53")
    return json.dumps(value, ensure_ascii=False)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# --- RFC 8032 ed25519, slow and plain ---------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
B_Y = 4 * pow(5, P - 2, P) % P


def x_of(y, sign):
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return P - x if x & 1 != sign else x


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2
    return ((x1 * y2 + x2 * y1) * pow(1 + k, P - 2, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, P - 2, P) % P)


def times(n, point):
    out = (0, 1)
    while n:
        if n & 1:
            out = add(out, point)
        point = add(point, point)
        n >>= 1
    return out


BASE = (x_of(B_Y, 0), B_Y)


def pack(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def number(data):
    return int.from_bytes(data, "little")


def sign(seed, message):
    digest = hashlib.sha512(seed).digest()
    a = (number(digest[:32]) & ((1 << 254) - 8)) | 1 << 254
    public = pack(times(a, BASE))
    r = number(hashlib.sha512(digest[32:] + message).digest()) % L
    point = pack(times(r, BASE))
    s = (r + number(hashlib.sha512(point + public + message).digest()) * a) % L
    return public, point + s.to_bytes(32, "little")


# --- the formats --------------------------------------------------------------------------------------


def pae(payload_type, payload):
    head = f"DSSEv1 {len(payload_type.encode())} {payload_type} {len(payload)} "
    return head.encode() + payload


def hkdf(secret, salt, info):
    key = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


def version_hash(vector):
    text = canonical(vector["content"])
    return {"canonical": text, "hash": "sha256:" + sha256(text.encode())}


def dsse(vector):
    payload = vector["payload"].encode()
    message = pae(vector["payload_type"], payload)
    public, signature = sign(bytes.fromhex(vector["seed"]), message)
    keyid = sha256(public)
    envelope = {
        "payloadType": vector["payload_type"],
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
    }
    return {
        "public": public.hex(),
        "keyid": keyid,
        "pae": message.hex(),
        "signature": signature.hex(),
        "payload_sha256": sha256(payload),
        "envelope": json.dumps(envelope, separators=(",", ":")),
    }


def join_token(vector):
    inside = vector["token"]
    secret, salt = bytes.fromhex(inside["secret"]), inside["id"].encode()
    join_key, mac_key = (hkdf(secret, salt, info) for info in (b"moorline join v1", b"moorline host mac v1"))
    claim = vector["claim"]
    keys = bytes.fromhex(claim["host_key"]) + bytes.fromhex(claim["sealing_key"])
    message = b"moorline host claim v1\0" + keys + claim["host_epoch"].encode() + b"\0" + claim["name"].encode()
    text = json.dumps(inside, separators=(",", ":")).encode()
    digest = sha256(keys)
    return {
        "line": "moor1." + base64.urlsafe_b64encode(text).decode().rstrip("="),
        "join_key": join_key.hex(),
        "join_key_hash": sha256(join_key),
        "mac_key": mac_key.hex(),
        "mac": hmac.new(mac_key, message, hashlib.sha256).hexdigest(),
        "fingerprint": "-".join(digest[n : n + 4] for n in range(0, 32, 4)),
    }


def main():
    write, wrong = "--write" in sys.argv[1:], 0
    for name, make in [("version-hash", version_hash), ("dsse", dsse), ("join-token", join_token)]:
        path = HERE / f"{name}.json"
        vectors = json.loads(path.read_text())
        for vector in vectors:
            for key, value in make(vector).items():
                if write:
                    vector[key] = value
                elif vector.get(key) != value:
                    wrong += 1
                    print(f"{path.name}: {vector['name']}: {key} is {vector.get(key)}, should be {value}")
        if write:
            path.write_text(json.dumps(vectors, indent=2, ensure_ascii=False) + "\n")
        print(f"{path.name}: {len(vectors)} vectors")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
