//! `policy.maintenance`.

use crate::fault::Fault;
use crate::maintenance::{Day, WINDOW_MAX_S, WINDOWS_MAX, Window, require_sound};
use crate::topology::keys;
use crate::topology::node::Node;
use crate::topology::vars::Why;

use super::service;
use super::walk::Walker;

/// The windows.
pub(super) fn windows(w: &mut Walker<'_>, node: &Node) -> Option<Vec<Window>> {
    let mut windows = Vec::new();
    let items = w.list(node, "a list of maintenance windows");
    if items.len() > WINDOWS_MAX {
        w.report(node.at, format!("{} windows are too many: {WINDOWS_MAX} at most", items.len()));
        return None;
    }
    for (n, item) in items.iter().enumerate() {
        windows.extend(w.within(n.to_string(), |w| window(w, item)));
    }
    Some(windows)
}

fn window(w: &mut Walker<'_>, node: &Node) -> Option<Window> {
    let fields = w.object(node, &keys::WINDOW)?;
    let known = w.problems.len();
    let day = |text: &str| {
        let found = Day::ALL.iter().find(|day| day.as_str() == text);
        found.map(|day| day.as_str().to_owned()).ok_or_else(|| Why::new("a day is one of mon, tue, wed, thu, fri, sat and sun"))
    };
    let named = w.get(&fields, "days", |w, node| Some(w.names(node, day))).unwrap_or_default();
    let days = Day::ALL.into_iter().filter(|day| named.iter().any(|(name, _)| name == day.as_str())).collect();
    let text = |w: &mut Walker<'_>, node: &Node| w.checked(node, |text| Ok(text.to_owned()));
    let start = w.get(&fields, "start", text);
    let duration = w.get(&fields, "duration", |w, node| service::seconds(w, node, WINDOW_MAX_S));
    let timezone = w.get(&fields, "timezone", text).unwrap_or_else(|| "UTC".to_owned());
    let window = Window { days, start: start?, duration_s: duration?, timezone };
    // One fault at a time, where it is.
    let sound = |window: &Window| require_sound(std::slice::from_ref(window));
    let plain = Window { days: Vec::new(), start: "00:00".to_owned(), duration_s: 60, timezone: "UTC".to_owned() };
    for (key, part) in [
        ("start", Window { start: window.start.clone(), ..plain.clone() }),
        ("duration", Window { duration_s: window.duration_s, ..plain.clone() }),
        ("timezone", Window { timezone: window.timezone.clone(), ..plain }),
    ] {
        if let Err(Fault { message, .. }) = sound(&part) {
            w.report(fields.key_at(key), message);
        }
    }
    (w.problems.len() == known).then_some(window)
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use crate::maintenance::{Day, Window};
    use crate::topology::{DriftPolicy, Policy};

    fn policy(maintenance: &str) -> Result<Option<Policy>, String> {
        let text = format!("topology: t\npolicy:\n  maintenance: {maintenance}\nhosts: {{ h: {{}} }}\n");
        load(&text).map(|file| file.policy).map_err(|problems| problems.into_iter().map(|p| p.message).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn windows_are_read_with_their_defaults() {
        let read =
            policy("[{ days: [sun, sat], start: \"02:30\", duration: 1h30m, timezone: Europe/Berlin }, { start: 14:00, duration: 7h }]");
        let weekend =
            Window { days: vec![Day::Sat, Day::Sun], start: "02:30".to_owned(), duration_s: 5400, timezone: "Europe/Berlin".to_owned() };
        let daily = Window { days: Vec::new(), start: "14:00".to_owned(), duration_s: 7 * 3600, timezone: "UTC".to_owned() };
        assert_eq!(read.unwrap(), Some(Policy { drift: DriftPolicy::Heal, loop_breaker: None, maintenance: vec![weekend, daily] }));
    }

    #[test]
    fn what_is_wrong_with_a_window_is_said_at_its_place() {
        for (wrong, says) in [
            ("[{ days: [someday], start: \"02:00\", duration: 1h }]", "mon, tue"),
            ("[{ start: late, duration: 1h }]", "02:00"),
            ("[{ start: \"02:00\", duration: 30s }]", "1 minute"),
            ("[{ start: \"02:00\", duration: 1h500ms }]", "whole seconds"),
            ("[{ start: \"02:00\", duration: 1h, timezone: Mars/Base }]", "Europe/Berlin"),
            ("[{ duration: 1h }]", "start"),
            ("nightly", "a list of maintenance windows"),
        ] {
            let said = policy(wrong).unwrap_err();
            assert!(said.contains(says), "{wrong}: {said}");
        }
    }
}
