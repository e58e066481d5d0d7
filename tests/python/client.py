"""Talks to a hub as any gRPC client can: takes an operator's bundle, asks for the services by
reflection, and calls what it finds. Prints one JSON object."""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

TIMEOUT_S = 20


def certificates(pem):
    """The certificates of a PEM text, one by one."""
    end = "-----END CERTIFICATE-----"
    return [part.strip() + "\n" + end + "\n" for part in pem.split(end) if part.strip()]


def channel(bundle, with_certificate=True):
    chain = certificates(bundle["certificate_chain_pem"])
    credentials = grpc.ssl_channel_credentials(
        root_certificates=chain[-1].encode(),
        private_key=bundle["key_pem"].encode() if with_certificate else None,
        certificate_chain="".join(chain).encode() if with_certificate else None,
    )
    # A hub is known by its CA, not by its address.
    options = [("grpc.ssl_target_name_override", "moorline-hub")]
    return grpc.secure_channel(bundle["hubs"][0], credentials, options)


class Service:
    """The methods of a service, made from its descriptors."""

    def __init__(self, link, pool, name):
        self.link = link
        self.descriptor = pool.FindServiceByName(name)

    def call(self, method, **fields):
        found = self.descriptor.methods_by_name[method]
        request = GetMessageClass(found.input_type)(**fields)
        path = f"/{self.descriptor.full_name}/{method}"
        encode = type(request).SerializeToString
        decode = GetMessageClass(found.output_type).FromString
        kind = self.link.unary_stream if found.server_streaming else self.link.unary_unary
        answer = kind(path, encode, decode)(request, timeout=TIMEOUT_S)
        return list(answer) if found.server_streaming else answer


def as_dict(message):
    return MessageToDict(message, preserving_proto_field_name=True)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        bundle = json.load(file)
    out = {}
    with channel(bundle) as link:
        reflection = ProtoReflectionDescriptorDatabase(link)
        out["services"] = sorted(reflection.get_services())
        health = health_pb2_grpc.HealthStub(link).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        out["health"] = health_pb2.HealthCheckResponse.ServingStatus.Name(health.status)
        operator = Service(link, DescriptorPool(reflection), "moorline.v1.Operator")
        out["cluster"] = operator.call("GetCluster").cluster
        out["hosts"] = [as_dict(host) for host in operator.call("ListHosts").hosts]
        out["events"] = [event.kind for event in operator.call("Events")]
    with channel(bundle, with_certificate=False) as link:
        pool = DescriptorPool(reflection_of(bundle))
        try:
            Service(link, pool, "moorline.v1.Operator").call("GetCluster")
            out["without_certificate"] = "OK"
        except grpc.RpcError as error:
            out["without_certificate"] = error.code().name
    json.dump(out, sys.stdout)


def reflection_of(bundle):
    return ProtoReflectionDescriptorDatabase(channel(bundle))


if __name__ == "__main__":
    main()
