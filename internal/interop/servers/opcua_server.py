"""An OPC UA server on asyncua.

Reads its settings as JSON from one line of standard input and serves on
127.0.0.1 at the port given as argument until its input ends:

    cert, key   its certificate and private key, DER and PEM files; empty for policy None alone
    trust       folder with the clients' certificates that it trusts; empty trusts all
    users       {name: password}; empty lets anyone in
    secure      offer Basic256Sha256 only
    nodes       [{"id", "type", "value"}], as ns=2;s=<id>, with "access" where it is not
                CurrentRead and CurrentWrite: a list of names of AccessLevel's bits

Each further line is a node to set, with "status" where the value is not Good.
"""

import asyncio
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

APPLICATION_URI = "urn:millrace:interop:asyncua"


class Users:
    """Lets in who is listed, with the right password."""

    def __init__(self, users):
        self.users = users

    def get_user(self, iserver, username=None, password=None, certificate=None):
        if isinstance(password, bytes):
            password = password.decode()
        if not self.users or (username in self.users and self.users[username] == password):
            return User(role=UserRole.User, name=username)
        return None


def variant(node):
    kind = ua.VariantType[node["type"]]
    value = node["value"]
    if kind == ua.VariantType.DateTime:
        value = datetime.fromisoformat(value).astimezone(timezone.utc)
    elif kind in (ua.VariantType.Float, ua.VariantType.Double):
        value = float(value)
    elif kind not in (ua.VariantType.String, ua.VariantType.Boolean):
        value = int(value)
    return ua.Variant(value, kind)


def data_value(node):
    status = ua.StatusCode(int(node.get("status", 0)))
    now = datetime.now(timezone.utc)
    return ua.DataValue(variant(node), status, SourceTimestamp=now, ServerTimestamp=now)


async def main():
    settings = json.loads(sys.stdin.readline())
    server = Server(user_manager=Users(settings.get("users") or {}))
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{sys.argv[1]}/millrace")
    await server.set_application_uri(APPLICATION_URI)

    policies = [] if settings.get("secure") else [ua.SecurityPolicyType.NoSecurity]
    if settings.get("cert"):
        await server.load_certificate(settings["cert"])
        await server.load_private_key(settings["key"])
        policies += [
            ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
            ua.SecurityPolicyType.Basic256Sha256_Sign,
        ]
    server.set_security_policy(policies)
    server.set_identity_tokens([ua.UserNameIdentityToken] if settings.get("users") else [ua.AnonymousIdentityToken])
    if settings.get("trust"):
        store = TrustStore([Path(settings["trust"])], [])
        await store.load()
        options = (
            CertificateValidatorOptions.BASIC_VALIDATION
            | CertificateValidatorOptions.TRUSTED
            | CertificateValidatorOptions.PEER_CLIENT
        )
        server.set_certificate_validator(CertificateValidator(options, store))

    index = await server.register_namespace("urn:millrace:interop")
    nodes = {}
    for node in settings["nodes"]:
        nodes[node["id"]] = await server.nodes.objects.add_variable(
            ua.NodeId(node["id"], index), ua.QualifiedName(node["id"], index), variant(node)
        )
        await nodes[node["id"]].set_writable()
        if node.get("access"):
            level = sum(1 << ua.AccessLevel[name] for name in node["access"])
            for attribute in (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel):
                await nodes[node["id"]].write_attribute(
                    attribute, ua.DataValue(ua.Variant(level, ua.VariantType.Byte))
                )

    loop = asyncio.get_running_loop()
    async with server:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            node = json.loads(line)
            await nodes[node["id"]].write_value(data_value(node))


asyncio.run(main())
