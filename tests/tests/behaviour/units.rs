//! The systemd units are hardened, and stay so.

use std::path::Path;
use std::process::Command;

use moorline_tests::limits::COMMAND;
use moorline_tests::process::run;

/// The highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX: u32 = 20;

fn unit(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

#[test]
fn the_units_name_what_the_programs_need_and_shut_out_the_rest() {
    for name in ["moorline-hub.service", "moorline-agent.service"] {
        let text = std::fs::read_to_string(unit(name)).unwrap();
        for line in [
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "CapabilityBoundingSet=",
            "SystemCallFilter=@system-service",
            "MemoryDenyWriteExecute=yes",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
            "StateDirectoryMode=0700",
            "UMask=0077",
            "Restart=always",
        ] {
            assert!(text.lines().any(|l| l == line), "{name} lacks `{line}`");
        }
    }
}

#[test]
fn the_agents_unit_starts_whatever_records_are_left_once_the_host_has_joined() {
    let text = std::fs::read_to_string(unit("moorline-agent.service")).unwrap();
    let conditions: Vec<&str> = text.lines().filter(|l| l.starts_with("Condition") || l.starts_with("Assert")).collect();
    assert_eq!(conditions, ["ConditionPathExists=/var/lib/moorline-agent/enrolment.json"]);
}

#[test]
fn systemd_finds_little_exposure_in_the_units() {
    for name in ["moorline-hub.service", "moorline-agent.service"] {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE_MAX}")]).arg(unit(name));
        match run(analyze, b"", COMMAND) {
            Ok(output) if output.text().contains("Overall exposure level") => {
                assert_eq!(output.code, 0, "{name}: {}", output.text());
            }
            Ok(_) | Err(_) => println!("skipped: no systemd-analyze that can judge a unit file"),
        }
    }
}
