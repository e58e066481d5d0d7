"""Drives the simulated Proxmox VE as people drive a real one, with a client that knows nothing of it: proxmoxer. Takes the host, the port,
a token (user@realm!name=secret), the node and a template of containers. Prints one JSON object."""

import json
import sys
import time

import urllib3
from proxmoxer import ProxmoxAPI
from proxmoxer.core import ResourceException
from proxmoxer.tools import Tasks

TIMEOUT_S = 60


def main():
    host, port, token, node, template = sys.argv[1:]
    user, secret = token.split("=", 1)
    user, name = user.split("!", 1)
    # Its certificate is its own, as that of a fresh host is.
    urllib3.disable_warnings()
    api = ProxmoxAPI(host, port=int(port), user=user, token_name=name, token_value=secret, verify_ssl=False, timeout=TIMEOUT_S)

    def done(task):
        ended = Tasks.blocking_status(api, task, timeout=TIMEOUT_S, polling_interval=0.1)
        assert ended is not None and ended["exitstatus"] == "OK", ended
        return ended["type"]

    told = {"version": api.version.get()["version"], "nodes": [one["node"] for one in api.nodes.get()], "tasks": []}
    here = api.nodes(node)

    told["tasks"].append(done(here.qemu.post(vmid=700, name="made", memory=512, scsi0="local-lvm:1", net0="virtio,bridge=vmbr0", tags="b;A")))
    machine = here.qemu(700)
    machine.config.put(memory=1024, description="a line\nand 1 + 1; more")
    config = machine.config.get()
    told["config"] = {key: config[key] for key in ("name", "memory", "tags", "description", "scsi0")}
    try:
        machine.config.put(memory=2048, digest="0" * 40)
    except ResourceException as error:
        told["digest"] = [error.status_code, error.content]
    try:
        machine.config.put(nonsense=1)
    except ResourceException as error:
        told["unknown_key"] = [error.status_code, list(error.errors or {})]

    told["tasks"].append(done(machine.status.start.post()))
    told["status"] = machine.status.current.get()["status"]
    told["tasks"].append(done(machine.snapshot.post(snapname="before", description="of it")))
    told["snapshots"] = sorted(one["name"] for one in machine.snapshot.get())
    told["tasks"].append(done(machine.snapshot("before").rollback.post()))
    told["tasks"].append(done(machine.clone.post(newid=701, name="copy", full=1)))
    told["copy"] = here.qemu(701).config.get()["name"]
    told["tasks"].append(done(machine.snapshot("before").delete()))

    told["tasks"].append(done(here.lxc.post(vmid=702, hostname="box", ostemplate=template, storage="local-lvm", memory=256, unprivileged=1)))
    told["container"] = here.lxc(702).config.get()["hostname"]

    for guest in (machine, here.qemu(701), here.lxc(702)):
        if guest.status.current.get()["status"] == "running":
            told["tasks"].append(done(guest.status.stop.post()))
        told["tasks"].append(done(guest.delete()))
    try:
        machine.config.get()
    except ResourceException as error:
        told["gone"] = [error.status_code, str(error)]
    told["log"] = [line["t"] for line in here.tasks(here.tasks.get(limit=1)[0]["upid"]).log.get()]
    print(json.dumps(told))


if __name__ == "__main__":
    started = time.monotonic()
    main()
    assert time.monotonic() - started < TIMEOUT_S
