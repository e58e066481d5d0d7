//! Against registries of the tests' own, on this machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Answers `METHOD /path` with a status, headers and a body; notes what it was asked with.
struct Fake {
    address: String,
    asked: Arc<Mutex<Asked>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

/// What it was asked, and by which login.
type Asked = Vec<(String, Option<String>)>;
/// A status, headers, a body.
type Answer = (u16, Vec<(&'static str, String)>, String);

async fn fake(answer: impl Fn(&str, Option<&str>, &str) -> Answer + Send + Sync + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let asked: Arc<Mutex<Asked>> = Arc::default();
    let (noted, own, answer) = (asked.clone(), address.clone(), Arc::new(answer));
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (noted, own, answer) = (noted.clone(), own.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut first, mut line, mut headers) = (String::new(), String::new(), BTreeMap::new());
                // A greeting of TLS is no text: the connection ends.
                while stream.read_line(&mut line).await.is_ok_and(|n| n > 2) {
                    if first.is_empty() {
                        first = line.clone();
                    } else if let Some((name, value)) = line.trim().split_once(": ") {
                        headers.insert(name.to_ascii_lowercase(), value.to_owned());
                    }
                    line.clear();
                }
                let asked = first.rsplit_once(' ').map(|(asked, _)| asked.to_owned()).unwrap_or_default();
                let login = headers.get("authorization").cloned();
                noted.lock().unwrap().push((asked.clone(), login.clone()));
                let (status, headers, body) = answer(&asked, login.as_deref(), &own);
                let mut text = format!("HTTP/1.1 {status} X\r\n");
                headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
                let shown = if asked.starts_with("HEAD") { "" } else { body.as_str() };
                let _ =
                    stream.write_all(format!("{text}content-length: {}\r\nconnection: close\r\n\r\n{shown}", shown.len()).as_bytes()).await;
            });
        }
    });
    Fake { address, asked, _task: tokio_util::task::AbortOnDropHandle::new(task) }
}

async fn ask(fake: &Fake, credentials: Option<&Credentials>) -> Result<String, RegistryError> {
    Asker::new().unwrap().digest(&ImageName::of(&format!("{}/team/app:1", fake.address)), credentials).await
}

fn login() -> Credentials {
    Credentials::Password { username: "me".into(), password: Zeroizing::new("secret".into()) }
}

fn found() -> Answer {
    (200, vec![("Docker-Content-Digest", DIGEST.into())], "{}".into())
}

#[tokio::test]
async fn a_tag_has_the_digest_that_its_registry_names_or_that_of_its_manifest() {
    let named = fake(|asked, _, _| if asked == "HEAD /v2/team/app/manifests/1" { found() } else { (404, vec![], String::new()) }).await;
    assert_eq!(ask(&named, None).await, Ok(DIGEST.to_owned()));
    let silent = fake(|_, _, _| (200, vec![], "{\"a\":1}".into())).await;
    assert_eq!(ask(&silent, None).await, Ok(format!("sha256:{}", sha256_hex(b"{\"a\":1}"))));
    let lying = fake(|_, _, _| (200, vec![("Docker-Content-Digest", "sha256:0".into())], "{}".into())).await;
    assert!(matches!(ask(&lying, None).await, Err(RegistryError::Answer { .. })));
}

#[tokio::test]
async fn it_logs_in_as_it_is_asked_to() {
    let basic = fake(|_, login, _| match login {
        Some("Basic bWU6c2VjcmV0") => found(),
        _ => (401, vec![("WWW-Authenticate", "Basic realm=\"x\"".into())], String::new()),
    })
    .await;
    assert_eq!(ask(&basic, Some(&login())).await, Ok(DIGEST.to_owned()));
    assert_eq!(ask(&basic, None).await, Err(RegistryError::Denied { host: basic.address.clone(), had_login: false }));

    let bearer = |known: bool| {
        move |asked: &str, login: Option<&str>, own: &str| match (asked, login) {
            (asked, Some("Basic bWU6c2VjcmV0")) if asked.starts_with("GET /token?") && known => (200, vec![], "{\"token\":\"t\"}".into()),
            (asked, None) if asked.starts_with("GET /token?") && !known => (200, vec![], "{\"access_token\":\"t\"}".into()),
            (_, Some("Bearer t")) => found(),
            _ => {
                let challenge = format!("Bearer realm=\"http://{own}/token\",service=\"a registry\",scope=\"x\"");
                (401, vec![("WWW-Authenticate", challenge)], String::new())
            }
        }
    };
    let (known, anonymous) = (fake(bearer(true)).await, fake(bearer(false)).await);
    assert_eq!(ask(&known, Some(&login())).await, Ok(DIGEST.to_owned()));
    let asked: Vec<String> = known.asked.lock().unwrap().iter().map(|(asked, _)| asked.clone()).collect();
    assert!(asked.contains(&"GET /token?scope=repository:team/app:pull&service=a%20registry".to_owned()), "{asked:?}");
    assert_eq!(ask(&anonymous, None).await, Ok(DIGEST.to_owned()));
    assert!(matches!(ask(&known, None).await, Err(RegistryError::Denied { had_login: false, .. })));
}

#[tokio::test]
async fn credentials_go_to_nobody_else_and_never_without_tls() {
    let other = fake(|_, _, _| found()).await;
    let to = format!("http://{}/v2/team/app/manifests/1", other.address);
    let sends_on = fake(move |_, login, _| match login {
        Some(_) => (307, vec![("Location", to.clone())], String::new()),
        None => (401, vec![("WWW-Authenticate", "Basic realm=\"x\"".into())], String::new()),
    })
    .await;
    assert_eq!(ask(&sends_on, Some(&login())).await, Ok(DIGEST.to_owned()));
    assert!(other.asked.lock().unwrap().iter().all(|(_, login)| login.is_none()));
    let abroad = fake(|_, _, _| (401, vec![("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/token\"".into())], String::new())).await;
    let error = ask(&abroad, Some(&login())).await.unwrap_err().to_string();
    assert!(error.contains("no TLS"), "{error}");
    let circle = fake(|_, _, own| (302, vec![("Location", format!("http://{own}/again"))], String::new())).await;
    assert!(ask(&circle, None).await.unwrap_err().to_string().contains("again and again"));
}

#[tokio::test]
async fn whom_the_registry_sends_on_to_gets_no_credentials_by_asking_for_them() {
    let thief = fake(|_, _, own| (401, vec![("WWW-Authenticate", format!("Bearer realm=\"http://{own}/t\""))], String::new())).await;
    let to = format!("http://{}/v2/team/app/manifests/1", thief.address);
    let registry = fake(move |_, _, _| (307, vec![("Location", to.clone())], String::new())).await;
    assert!(matches!(ask(&registry, Some(&login())).await, Err(RegistryError::Answer { why, .. }) if why.contains("wants credentials")));
    let asked = thief.asked.lock().unwrap().clone();
    assert!(!asked.is_empty() && asked.iter().all(|(_, login)| login.is_none()), "{asked:?}");
}

#[tokio::test]
async fn what_is_wrong_is_told_without_the_secret() {
    let unknown = fake(|_, _, _| (404, vec![], String::new())).await;
    assert!(matches!(ask(&unknown, None).await, Err(RegistryError::Unknown { .. })));
    let denied = fake(|_, _, _| (401, vec![("WWW-Authenticate", "Basic realm=\"x\"".into())], "secret".into())).await;
    let error = ask(&denied, Some(&login())).await.unwrap_err();
    assert_eq!(error, RegistryError::Denied { host: denied.address.clone(), had_login: true });
    assert!(!error.to_string().contains("secret"));
    let gone = ImageName::of("127.0.0.1:1/app:1");
    let error = Asker::new().unwrap().digest(&gone, None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    let token = Credentials::IdentityToken(Zeroizing::new("t".into()));
    assert!(ask(&denied, Some(&token)).await.unwrap_err().to_string().contains("identity token"));
}

#[test]
fn challenges_are_read_in_any_order() {
    let words = "scope=\"repository:a:pull,push\", realm=\"https://a/t?x=1\",service=plain,error=\"y\"";
    assert_eq!(parameter(words, "realm").as_deref(), Some("https://a/t?x=1"));
    assert_eq!(parameter(words, "service").as_deref(), Some("plain"));
    assert_eq!(parameter(words, "scope").as_deref(), Some("repository:a:pull,push"));
    assert_eq!(parameter(words, "nothing"), None);
    assert_eq!(encoded("a b&c"), "a%20b%26c");
}
