//! Pulling an image.

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use super::super::{DriverError, DriverErrorKind};
use super::error::{from_engine, image_unavailable, status, words};
use crate::limits::{PULL_IDLE_TIMEOUT, PULL_TIMEOUT, PULLS_MAX};

/// Pulls take turns; those that wait hold no lane permit.
static PULLS: Semaphore = Semaphore::const_new(PULLS_MAX);

/// Pulls `image`, for `platform` if it is not the engine's own; call it [`crate::lane::aside`]. `is_here`: it is on the host already, for the words of an error.
pub(super) async fn pull(docker: &Docker, image: &str, platform: Option<&str>, is_here: bool) -> Result<(), DriverError> {
    // Never closed.
    let _turn = PULLS.acquire().await.ok();
    let late = |words: &str| image_unavailable(image, is_here, DriverErrorKind::Retryable, words);
    tokio::time::timeout(PULL_TIMEOUT, pull_now(docker, image, platform, is_here)).await.unwrap_or_else(|_| Err(late("it takes too long")))
}

async fn pull_now(docker: &Docker, image: &str, platform: Option<&str>, is_here: bool) -> Result<(), DriverError> {
    let (from_image, tag) = split_image(image);
    let options = CreateImageOptions {
        from_image: Some(from_image.to_owned()),
        tag: Some(tag.to_owned()),
        platform: platform.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    tracing::info!(image, "pulling");
    // The engine's answer begins with the registry's.
    let patient = docker.clone().with_timeout(PULL_IDLE_TIMEOUT);
    let mut progress = std::pin::pin!(patient.create_image(Some(options), None, None));
    loop {
        match tokio::time::timeout(PULL_IDLE_TIMEOUT, progress.next()).await {
            Err(_) | Ok(Some(Err(Error::RequestTimeoutError))) => {
                return Err(image_unavailable(image, is_here, DriverErrorKind::Retryable, "the registry does not answer"));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(e))) => {
                let mapped = from_engine(&e, "pulling");
                if mapped.kind == DriverErrorKind::Unreachable {
                    return Err(mapped);
                }
                // The registry's words, without our own and the engine's wrapping.
                let plain = if words(&e).is_empty() { mapped.message } else { words(&e).to_owned() };
                let kind = if status(&e) == Some(404) { DriverErrorKind::Permanent } else { DriverErrorKind::Retryable };
                return Err(image_unavailable(image, is_here, kind, &plain));
            }
        }
    }
}

/// An image's name and its tag or digest: without one the engine would pull every tag.
fn split_image(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    match image.rsplit_once(':') {
        // A colon before the last slash is a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        Some(_) | None => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_means_its_latest_one() {
        assert_eq!(split_image("nginx"), ("nginx", "latest"));
        assert_eq!(split_image("nginx:1.27"), ("nginx", "1.27"));
        assert_eq!(split_image("hub.example:5000/a/b"), ("hub.example:5000/a/b", "latest"));
        assert_eq!(split_image("hub.example:5000/a/b:2"), ("hub.example:5000/a/b", "2"));
        assert_eq!(split_image("nginx:1@sha256:00"), ("nginx:1", "sha256:00"));
    }
}
