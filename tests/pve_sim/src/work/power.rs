//! Starting and stopping.
//!
//! Source: `vm_start`, `_do_vm_stop`, `vm_reboot` in `PVE::QemuServer`; `vm_start`, `vm_stop` in `PVE::LXC`; `PVE::HA`.

use super::{Done, Work};
use crate::api::{apply_lxc_pending, apply_qemu_pending, check_lock};
use crate::world::World;
use crate::world::effects::{By, EffectKind};
use crate::world::guest::{Guest, Kind, Power};
use crate::world::task::Span;

/// How long a guest goes on after it was told to end by force.
const KILL_MS: u64 = 5_000;

impl World {
    pub(super) fn begin_start(&mut self, vmid: u32, kind: Kind, node: &str) -> Result<Span, String> {
        let guest = self.config_of(kind, node, vmid)?;
        if guest.is_template() {
            return Err(match kind {
                Kind::Qemu => "you can't start a vm if it's a template".to_owned(),
                Kind::Lxc => "you can't start a CT if it's a template".to_owned(),
            });
        }
        // A machine that was put on disk is locked for that, and goes on when it is started; a container's `mounted` does not count.
        let is_weak = matches!((kind, guest.lock()), (Kind::Qemu, Some("suspended")) | (Kind::Lxc, Some("mounted")));
        if !is_weak {
            check_lock(guest)?;
        }
        if guest.is_running() {
            return Err(format!("{} {vmid} already running", kind.word()));
        }
        Ok(Span::usual())
    }

    pub(super) fn finish_start(&mut self, vmid: u32, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        if guest.is_running() {
            return Err(format!("{} {vmid} already running", guest.kind.word()));
        }
        let is_resumed = guest.lock() == Some("suspended");
        match guest.kind {
            Kind::Qemu => drop(apply_qemu_pending(self, vmid)),
            Kind::Lxc => drop(apply_lxc_pending(self, vmid, None, false)),
        }
        if is_resumed {
            self.log(task, "Resuming suspended VM");
            self.forget_state(vmid);
        }
        self.run(vmid);
        Ok(())
    }

    /// It runs from now on.
    pub(crate) fn run(&mut self, vmid: u32) {
        let since_ms = self.now_ms;
        self.edit(vmid, |guest| guest.power = Power::Running { since_ms });
        self.effect(vmid, EffectKind::Started, "");
    }

    /// It does no longer.
    pub(crate) fn halt(&mut self, vmid: u32) {
        if self.guests.get(&vmid).is_some_and(Guest::is_running) {
            self.edit(vmid, |guest| guest.power = Power::Stopped);
            self.effect(vmid, EffectKind::Stopped, "");
        }
    }

    fn forget_state(&mut self, vmid: u32) {
        let state = self.edit(vmid, |guest| {
            guest.conf.remove("lock");
            guest.conf.remove("vmstate")
        });
        if let Some(volid) = state.flatten() {
            self.free(vmid, &volid);
        }
    }

    /// What a worker finds that is to stop a guest: nothing when it does not run.
    fn to_stop(&self, vmid: u32, kind: Kind, node: &str) -> Result<Option<&Guest>, String> {
        let words = format!("unable to find configuration file for VM {vmid} on node '{node}'");
        let guest = self.config_of(kind, node, vmid).map_err(|missing| if kind == Kind::Qemu { words } else { missing })?;
        if !guest.is_running() {
            return Ok(None);
        }
        let is_weak = kind == Kind::Lxc && guest.lock() == Some("mounted");
        if !is_weak {
            check_lock(guest)?;
        }
        Ok(Some(guest))
    }

    pub(super) fn begin_stop(&mut self, vmid: u32, kind: Kind, node: &str) -> Result<Span, String> {
        self.to_stop(vmid, kind, node)?;
        Ok(Span::usual())
    }

    pub(super) fn finish_stop(&mut self, vmid: u32) -> Done {
        self.halt(vmid);
        Ok(())
    }

    pub(super) fn begin_shutdown(
        &mut self,
        vmid: u32,
        kind: Kind,
        node: &str,
        timeout_s: u64,
        force: bool,
        task: u64,
    ) -> Result<Span, String> {
        let Some(guest) = self.to_stop(vmid, kind, node)? else { return Ok(Span::usual()) };
        let is_paused = matches!(guest.power, Power::Paused { .. });
        let takes = guest.shutdown_ms.filter(|_| !self.faults.deaf.contains(&vmid));
        let timeout_ms = timeout_s.saturating_mul(1000);
        if is_paused && force {
            return Ok(Span::usual());
        }
        match takes {
            Some(ms) if ms <= timeout_ms => Ok(Span { ms: Some(ms), doom: None }),
            Some(_) | None if force => {
                self.log(task, "VM still running - terminating now with SIGTERM");
                Ok(Span { ms: Some(timeout_ms.saturating_add(KILL_MS)), doom: None })
            }
            Some(_) | None => {
                let doom = match kind {
                    Kind::Qemu => "VM quit/powerdown failed - got timeout".to_owned(),
                    Kind::Lxc => format!("command 'lxc-stop -n {vmid} --nokill --timeout {timeout_s}' failed: exit code 1"),
                };
                Ok(Span { ms: Some(timeout_ms), doom: Some(doom) })
            }
        }
    }

    pub(super) fn finish_reboot(&mut self, vmid: u32, task: u64) -> Done {
        self.halt(vmid);
        self.finish_start(vmid, task)
    }

    pub(super) fn finish_reset(&mut self, vmid: u32) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        check_lock(guest)?;
        if !guest.is_running() {
            return Err(format!("VM {vmid} not running"));
        }
        self.effect(vmid, EffectKind::Reset, "");
        Ok(())
    }

    pub(super) fn begin_suspend(&mut self, vmid: u32, is_disk: bool) -> Result<Span, String> {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        check_lock(guest)?;
        if !guest.is_running() {
            return Err(format!("VM {vmid} not running"));
        }
        if is_disk {
            self.lock(vmid, "suspending");
        }
        Ok(Span::usual())
    }

    pub(super) fn finish_suspend(&mut self, vmid: u32, is_disk: bool, storage: Option<&str>) -> Done {
        if !is_disk {
            self.edit(vmid, |guest| {
                if let Power::Running { since_ms } = guest.power {
                    guest.power = Power::Paused { since_ms };
                }
            });
            self.effect(vmid, EffectKind::Suspended, "");
            return Ok(());
        }
        let state = self.make_state(vmid, storage, "suspend")?;
        self.edit(vmid, |guest| {
            guest.conf.insert("vmstate".to_owned(), state);
            guest.conf.insert("lock".to_owned(), "suspended".to_owned());
            guest.power = Power::Stopped;
        });
        self.effect(vmid, EffectKind::Suspended, "disk");
        Ok(())
    }

    pub(super) fn finish_resume(&mut self, vmid: u32, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        if guest.lock() == Some("suspended") {
            return self.finish_start(vmid, task);
        }
        check_lock(guest)?;
        self.edit(vmid, |guest| {
            if let Power::Paused { since_ms } = guest.power {
                guest.power = Power::Running { since_ms };
            }
        });
        self.effect(vmid, EffectKind::Resumed, "");
        Ok(())
    }

    /// The cluster was asked: it does it some time later, as root, in a task of its own.
    pub(super) fn ask_ha(&mut self, vmid: u32, stop: Option<u64>, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let (kind, node, word, prefix) = (guest.kind, guest.node.clone(), guest.kind.word(), guest.kind.prefix());
        let (what, work, name) = match stop {
            None => ("start", Work::Start { vmid, kind, node: node.clone() }, "start"),
            Some(0) => ("stop", Work::Stop { vmid, kind, node: node.clone() }, "stop"),
            Some(timeout_s) => ("stop", Work::Shutdown { vmid, kind, node: node.clone(), timeout_s, force: true }, "shutdown"),
        };
        self.log(task, &format!("Requesting HA {what} for {word} {vmid}"));
        self.later(self.setup.ha_takes_ms, &node, &format!("{prefix}{name}"), vmid, work);
        Ok(())
    }

    pub(super) fn ask_ha_to_move(&mut self, vmid: u32, target: &str, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let (kind, node) = (guest.kind, guest.node.clone());
        self.log(task, &format!("Requesting HA migration for {} {vmid} to node {target}", kind.word()));
        let name = if kind == Kind::Qemu { "qmigrate" } else { "vzmigrate" };
        let work = Work::Migrate { vmid, kind, node: node.clone(), target: target.to_owned(), local_disks: true };
        self.later(self.setup.ha_takes_ms, &node, name, vmid, work);
        Ok(())
    }

    /// It stops by itself.
    pub(crate) fn crash(&mut self, vmid: u32) {
        let by = std::mem::replace(&mut self.cause.by, By::Itself);
        self.halt(vmid);
        self.cause.by = by;
    }
}
