//! `moorline-agent join TOKEN`.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use moorline_common::enrol::{JoinToken, join_message};
use moorline_common::fault::Code;
use moorline_common::sign::{Envelope, Verified};
use moorline_common::trust::TrustRoot;
use moorline_proto::transport::spki_sha256;
use moorline_proto::v1 as pb;
use rustls_pki_types::CertificateDer;

use super::say;
use crate::config::Config;
use crate::db::Db;
use crate::identity::{Enrolment, HostKeys, StateDir, Transport};
use crate::limits::{HUB_ANSWER_TIMEOUT, JOIN_TRIES, REDIAL_SLOW, TOKEN_INPUT_MAX};
use crate::link::transport::{LinkError, open};
use crate::trust::{TrustStore, next_root};

pub(super) async fn join(config: &Config, token: &str) -> anyhow::Result<ExitCode> {
    let token = read_token(token)?;
    let state = StateDir(config.state.clone());
    state.ensure()?;
    let _lock = state.lock()?;
    if let Some(earlier) = state.enrolment()?.filter(|e| e.joined) {
        anyhow::ensure!(
            earlier.token_id == token.id,
            "this host has joined cluster `{}` as `{name}`; to join anew, let an operator run `moorctl host rm {name}`, and use an empty state folder",
            earlier.cluster,
            name = earlier.name
        );
        let keys = state.keys()?.context("the host's keys are gone; restore the state folder")?;
        tell(&earlier, &keys);
        return Ok(ExitCode::SUCCESS);
    }
    // All keys are on disk before anything is sent: a lost reply can be asked for again with the same ones.
    let keys = state.ensure_keys()?;
    let transport = match state.transport()? {
        Some(transport) if transport.chain.is_empty() => transport,
        Some(_) | None => Transport::generate()?,
    };
    state.put_transport(&transport)?;
    let mut enrolment = Enrolment::of_token(&token);
    state.put_enrolment(&enrolment)?;

    let response = ask(&enrolment, request(&token, &keys, &transport)?).await?;
    let certified = check_certificate(&transport, &response, &enrolment)?;
    store_roots(config, &enrolment, response.roots)?;
    state.put_transport(&certified)?;
    enrolment.joined = true;
    state.put_enrolment(&enrolment)?;
    tell(&enrolment, &keys);
    Ok(ExitCode::SUCCESS)
}

fn tell(enrolment: &Enrolment, keys: &HostKeys) {
    say(&format!("host         {}", enrolment.name));
    say(&format!("cluster      {}", enrolment.cluster));
    say(&format!("fingerprint  {}", keys.claim(enrolment.name.clone()).fingerprint()));
    say(&format!("pending: approve with `moorctl host approve {}`", enrolment.name));
}

fn read_token(argument: &str) -> anyhow::Result<JoinToken> {
    if argument != "-" {
        return Ok(JoinToken::decode(argument)?);
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    std::io::stdin().lock().take(TOKEN_INPUT_MAX).read_to_string(&mut text).context("reading the token from standard input")?;
    Ok(JoinToken::decode(&text)?)
}

fn request(token: &JoinToken, keys: &HostKeys, transport: &Transport) -> anyhow::Result<pb::JoinRequest> {
    let claim = keys.claim(token.name.clone());
    let csr_der = transport.csr_der()?;
    let host_signature = keys.host_key.sign_raw(&join_message(&csr_der));
    Ok(pb::JoinRequest {
        token_id: token.id.clone(),
        join_key: token.join_key().to_vec(),
        name: token.name.to_string(),
        csr_der,
        host_key: claim.host_key.to_vec(),
        sealing_key: claim.sealing_key.to_vec(),
        host_epoch: claim.host_epoch.to_string(),
        claim_mac: claim.mac(&token.mac_key()).to_vec(),
        host_signature,
    })
}

/// Asks every hub address in turn, a few times. A refusal is final, unless it may pass.
async fn ask(enrolment: &Enrolment, request: pb::JoinRequest) -> anyhow::Result<pb::JoinResponse> {
    let mut last = None;
    for attempt in 1..=JOIN_TRIES {
        for address in &enrolment.hubs {
            match ask_one(address, enrolment, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(LinkError::Refused(fault)) if !may_pass(fault.code) => anyhow::bail!("{fault}"),
                Err(error) => {
                    tracing::debug!(hub = %address, %error, "no answer");
                    last = Some(error);
                }
            }
        }
        if attempt < JOIN_TRIES {
            tokio::time::sleep(REDIAL_SLOW.wait(attempt, getrandom::u64().unwrap_or(0))).await;
        }
    }
    match last {
        Some(error) => Err(error.into()),
        None => anyhow::bail!("the token names no hub address"),
    }
}

/// Whether the same request may be answered otherwise soon: the hub has too much to do, or trouble of its own.
fn may_pass(code: Code) -> bool {
    matches!(code, Code::Busy | Code::Internal)
}

async fn ask_one(address: &str, enrolment: &Enrolment, request: pb::JoinRequest) -> Result<pb::JoinResponse, LinkError> {
    let mut gateway = open(address, BTreeSet::from([enrolment.ca_spki.clone()]), None).await?;
    match tokio::time::timeout(HUB_ANSWER_TIMEOUT, gateway.join(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(LinkError::Ended("no answer to the join".to_owned())),
    }
}

fn check_certificate(transport: &Transport, response: &pb::JoinResponse, enrolment: &Enrolment) -> anyhow::Result<Transport> {
    let certified = transport.with_certificate(&response.certificate_chain, response.certificate_serial)?;
    let pinned = response.certificate_chain.iter().skip(1).any(|ca| {
        let ca = CertificateDer::from(ca.as_slice());
        spki_sha256(&ca).as_deref() == Some(enrolment.ca_spki.as_str())
    });
    anyhow::ensure!(pinned, "the hub's certificate is not by the CA that the token names");
    Ok(certified)
}

/// Walks the roots from the pinned first one and keeps them. A hub that has none yet sends them later.
fn store_roots(config: &Config, enrolment: &Enrolment, roots: Vec<pb::Envelope>) -> anyhow::Result<()> {
    let store = TrustStore::new(Db::open(&config.state)?);
    let mut newest: Option<Verified<TrustRoot>> = None;
    for root in roots {
        let envelope = Envelope::try_from(root)?;
        let next = next_root(newest.as_ref().map(Verified::statement), &enrolment.root_pin, envelope)?;
        store.put_root(&next)?;
        newest = Some(next);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_final_unless_the_hub_was_merely_busy_or_in_trouble() {
        let passing: Vec<Code> = Code::ALL.iter().copied().filter(|code| may_pass(*code)).collect();
        assert_eq!(passing, [Code::Busy, Code::Internal]);
    }
}
