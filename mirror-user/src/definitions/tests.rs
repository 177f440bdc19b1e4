//! Every refusal: its kind, its words, and that nothing has changed.

use std::net::IpAddr;

use mirror_common::policy::Direction;
use proptest::prelude::*;

use super::diff::Difference;
use super::file::{Document, Form, write};
use super::filter::FilterDraft;
use super::host::{Host, check};
use super::refusal::Refusal;
use super::rule::{Action, Addresses, Rule, RuleNumber, parse_cidr};
use super::session::SessionDraft;
use super::target::{Destination, TargetDraft};
use super::text::{Name, Tag, Tags};
use super::*;
use crate::error::Kind;
use crate::model::{Endpoint, PacketLength};

fn name(text: &str) -> Name {
    text.parse().expect(text)
}

fn interface(text: &str) -> InterfaceName {
    text.parse().expect(text)
}

fn rule_number(number: u64) -> RuleNumber {
    RuleNumber::try_from(number).expect("in range")
}

fn target(target: &str, address: &str) -> TargetDraft {
    TargetDraft {
        id: None,
        name: name(target),
        destination: Destination::Address(address.parse().expect(address)),
        description: None,
        tags: Tags::default(),
    }
}

fn span(target_name: &str, device: &str) -> TargetDraft {
    TargetDraft { destination: Destination::Interface(interface(device)), ..target(target_name, "192.0.2.1") }
}

fn filter(filter: &str) -> FilterDraft {
    FilterDraft {
        id: None,
        name: name(filter),
        description: None,
        tags: Tags::default(),
        network_services_dns: false,
        mirror_non_ip: false,
    }
}

fn rule(direction: Direction, number: u64) -> Rule {
    Rule {
        number: rule_number(number),
        direction,
        action: Action::Accept,
        protocol: None,
        addresses: Addresses::new(parse_cidr("0.0.0.0/0").expect("valid"), parse_cidr("10.0.0.0/8").expect("valid"))
            .expect("valid"),
        source_ports: None,
        destination_ports: None,
        description: None,
    }
}

fn session(session: &str, source: &str, number: u64) -> SessionDraft {
    SessionDraft {
        id: None,
        name: name(session),
        source: interface(source),
        target: name("zeek"),
        filter: name("web"),
        number: SessionNumber::try_from(number).expect("in range"),
        vni: None,
        packet_length: None,
        description: None,
        tags: Tags::default(),
    }
}

/// Target zeek, filter web with an ingress rule 100, session one of eth0 with number 1.
fn definitions() -> Definitions {
    let mut definitions = Definitions::default();
    definitions.create_target(target("zeek", "192.0.2.1")).expect("target");
    definitions.create_filter(filter("web")).expect("filter");
    definitions.add_rule(&name("web"), rule(Direction::Ingress, 100), None).expect("rule");
    definitions.create_session(session("one", "eth0", 1)).expect("session");
    definitions
}

/// Tries a change that must be refused and must leave no trace.
fn refused<T: std::fmt::Debug>(change: impl FnOnce(&mut Definitions) -> Result<T, Refusal>) -> (Kind, String) {
    refused_by(&mut definitions(), change)
}

fn refused_by<T: std::fmt::Debug>(
    definitions: &mut Definitions,
    change: impl FnOnce(&mut Definitions) -> Result<T, Refusal>,
) -> (Kind, String) {
    let before = definitions.clone();
    // What is returned borrows the definitions: only its words are kept.
    let refusal = change(definitions).map(|done| format!("{done:?}")).expect_err("it must be refused");
    assert!(*definitions == before, "'{refusal}', and yet something has changed");
    (refusal.kind(), refusal.to_string())
}

fn refusal(kind: Kind, why: &str) -> (Kind, String) {
    (kind, why.to_owned())
}

#[test]
fn names_are_unique_per_kind() {
    assert_eq!(
        refused(|definitions| definitions.create_target(target("zeek", "192.0.2.2")).map(drop)),
        refusal(Kind::Conflict, "name zeek: there is a target of this name already")
    );
    assert_eq!(
        refused(|definitions| definitions.create_filter(filter("web")).map(drop)),
        refusal(Kind::Conflict, "name web: there is a filter of this name already")
    );
    assert_eq!(
        refused(|definitions| definitions.create_session(session("one", "eth1", 1)).map(drop)),
        refusal(Kind::Conflict, "name one: there is a session of this name already")
    );
    let mut definitions = definitions();
    definitions.create_filter(filter("zeek")).expect("a filter may have the name of a target");
    definitions.create_filter(filter("one")).expect("and of a session");
}

#[test]
fn session_numbers_are_unique_per_source() {
    let expected = refusal(Kind::Conflict, "session number 1: session one of source eth0 has it already");
    assert_eq!(refused(|definitions| definitions.create_session(session("two", "eth0", 1)).map(drop)), expected);
    let mut definitions = definitions();
    definitions.create_session(session("other", "eth1", 1)).expect("another source");
    definitions.create_session(session("two", "eth0", 2)).expect("another number");
    let one = SessionNumber::try_from(1).expect("in range");
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions
            .modify_session(&name("two"), |draft| draft.number = one)
            .map(drop)),
        expected
    );
    definitions.modify_session(&name("one"), |draft| draft.number = one).expect("its own number");
}

#[test]
fn rule_numbers_are_unique_per_filter_and_direction() {
    let web = name("web");
    let expected = refusal(Kind::Conflict, "rule number 100: filter web has an ingress rule with this number already");
    assert_eq!(
        refused(|definitions| definitions.add_rule(&web, rule(Direction::Ingress, 100), None).map(drop)),
        expected
    );
    let mut definitions = definitions();
    definitions.add_rule(&web, rule(Direction::Egress, 100), None).expect("the other direction");
    definitions.add_rule(&web, rule(Direction::Ingress, 200), None).expect("another number");
    for (direction, number) in [(Direction::Ingress, 200), (Direction::Egress, 100)] {
        assert_eq!(
            refused_by(&mut definitions, |definitions| definitions
                .modify_rule(&web, direction, rule_number(number), rule(Direction::Ingress, 100))
                .map(drop)),
            expected
        );
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    let absent = name("absent");
    let why = |kind: &str| refusal(Kind::NotFound, &format!("{kind} \"absent\": there is no such {kind}"));
    assert_eq!(refused(|definitions| definitions.delete_target(&absent)), why("target"));
    assert_eq!(refused(|definitions| definitions.delete_filter(&absent)), why("filter"));
    assert_eq!(refused(|definitions| definitions.delete_session(&absent)), why("session"));
    assert_eq!(refused(|definitions| definitions.modify_filter(&absent, |_| {}).map(drop)), why("filter"));
    assert_eq!(refused(|definitions| definitions.modify_session(&absent, |_| {}).map(drop)), why("session"));
    assert_eq!(
        refused(|definitions| definitions.add_rule(&absent, rule(Direction::Ingress, 1), None).map(drop)),
        why("filter")
    );
    let draft = session("two", "eth0", 2);
    assert_eq!(
        refused(|definitions| {
            definitions.create_session(SessionDraft { target: absent.clone(), ..draft.clone() }).map(drop)
        }),
        why("target")
    );
    assert_eq!(
        refused(|definitions| {
            definitions.create_session(SessionDraft { filter: absent.clone(), ..draft.clone() }).map(drop)
        }),
        why("filter")
    );
    let web = name("web");
    for direction in [Direction::Ingress, Direction::Egress] {
        let why = format!("filter web has no {} rule with number 101", direction.name());
        assert_eq!(
            refused(|definitions| definitions.delete_rule(&web, direction, rule_number(101))),
            refusal(Kind::NotFound, &why)
        );
        let new = rule(Direction::Ingress, 102);
        assert_eq!(
            refused(|definitions| definitions.modify_rule(&web, direction, rule_number(101), new).map(drop)),
            refusal(Kind::NotFound, &why)
        );
    }
    let refusal = definitions().target("tmt-00000000000000000").expect_err("no such id");
    assert_eq!(refusal.to_string(), "target \"tmt-00000000000000000\": there is no such target");
    assert_eq!(refusal.hint_text(), Some("'mirrorctl target list' lists them"));
}

#[test]
fn what_is_in_use_is_not_deleted() {
    let (zeek, web) = (name("zeek"), name("web"));
    assert_eq!(
        refused(|definitions| definitions.delete_target(&zeek)),
        refusal(Kind::Conflict, "the target is in use by session one")
    );
    let mut definitions = definitions();
    for number in 2..=25 {
        definitions.create_session(session(&format!("s{number:02}"), "eth0", number)).expect("session");
        if number == 3 {
            assert_eq!(
                refused_by(&mut definitions, |definitions| definitions.delete_filter(&web)),
                refusal(Kind::Conflict, "the filter is in use by 3 sessions: one, s02, s03")
            );
        }
    }
    let (kind, why) = refused_by(&mut definitions, |definitions| definitions.delete_filter(&web));
    assert_eq!(kind, Kind::Conflict);
    assert!(why.starts_with("the filter is in use by 25 sessions: one, s02, ") && why.ends_with(", s20 and 5 more"));
    let names: Vec<_> = definitions.sessions().map(|session| session.name.clone()).collect();
    for name in names {
        definitions.delete_session(&name).expect("session");
    }
    definitions.delete_filter(&web).expect("no longer in use");
    definitions.delete_target(&zeek).expect("no longer in use");
    assert_eq!(definitions, Definitions::default());
}

#[test]
fn a_target_is_never_the_source_itself() {
    let mut definitions = definitions();
    definitions.create_target(span("span", "eth0")).expect("target");
    definitions.create_session(session("two", "eth1", 1)).expect("session");
    let expected = refusal(Kind::BadInput, "target span: it is interface eth0, the source itself");
    let draft = SessionDraft { target: name("span"), ..session("three", "eth0", 3) };
    assert_eq!(refused_by(&mut definitions, |definitions| definitions.create_session(draft).map(drop)), expected);
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions
            .modify_session(&name("one"), |draft| draft.target = name("span"))
            .map(drop)),
        expected
    );
    definitions.modify_session(&name("two"), |draft| draft.target = name("span")).expect("another interface");
}

#[test]
fn a_target_is_the_address_of_one_host() {
    for (address, why) in [
        ("0.0.0.0", "it must be the address of one host"),
        ("255.255.255.255", "it must be the address of one host"),
        ("224.0.0.1", "it must be the address of one host"),
        ("ff02::1", "it must be the address of one host"),
        ("::", "it must be the address of one host"),
        ("::ffff:192.0.2.1", "write an IPv4 address as such"),
        ("fe80::1", "a link-local address doesn't say which link; use a global or unique local one"),
    ] {
        assert_eq!(
            refused(|definitions| definitions.create_target(target("new", address)).map(drop)),
            refusal(Kind::BadInput, &format!("address {address}: {why}"))
        );
    }
    let mut port_zero = target("new", "192.0.2.1");
    port_zero.destination = Destination::Address(Endpoint { port: 0, ..Endpoint::new(IpAddr::from([192, 0, 2, 1])) });
    assert_eq!(
        refused(|definitions| definitions.create_target(port_zero).map(drop)),
        refusal(Kind::BadInput, "port 0: a port must be 1 to 65535")
    );
}

#[test]
fn rules_are_checked_when_they_are_added_and_when_they_change() {
    let web = name("web");
    let mut with_ports = rule(Direction::Ingress, 200);
    with_ports.destination_ports = Some("80-443".parse().expect("valid"));
    let expected = refusal(
        Kind::BadInput,
        "destination port range 80-443: only protocols tcp (6) and udp (17) have ports, and no protocol is set",
    );
    assert_eq!(refused(|definitions| definitions.add_rule(&web, with_ports.clone(), None).map(drop)), expected);
    assert_eq!(
        refused(|definitions| {
            definitions.modify_rule(&web, Direction::Ingress, rule_number(100), with_ports.clone()).map(drop)
        }),
        expected
    );
    let mut with_host_bits = rule(Direction::Ingress, 200);
    with_host_bits.addresses = Addresses::V4 {
        source: "10.0.0.1/8".parse().expect("a network"),
        destination: "0.0.0.0/0".parse().expect("a network"),
    };
    assert_eq!(
        refused(|definitions| definitions.add_rule(&web, with_host_bits, None).map(drop)),
        refusal(Kind::BadInput, "source CIDR 10.0.0.1/8: the address has bits set behind its prefix of 8")
    );
}

#[test]
fn rules_keep_their_id_wherever_they_go() {
    let mut definitions = definitions();
    let web = name("web");
    let id = definitions.rule(&web, Direction::Ingress, rule_number(100)).expect("rule").id;
    definitions
        .modify_rule(&web, Direction::Ingress, rule_number(100), rule(Direction::Egress, 7))
        .expect("another place");
    let (filter, moved) = definitions.rule_by_id(id).expect("the same id");
    assert_eq!((&filter.name, moved.rule.direction, moved.rule.number), (&web, Direction::Egress, rule_number(7)));
    assert_eq!(filter.rule_count(Direction::Ingress), 0);
    definitions.delete_rule(&web, Direction::Egress, rule_number(7)).expect("rule");
    let refusal = definitions.rule_by_id(id).expect_err("deleted");
    assert_eq!((refusal.kind(), refusal.to_string()), (Kind::NotFound, format!("rule {id}: there is no such rule")));
}

#[test]
fn a_source_has_at_most_256_sessions_and_there_are_at_most_1024_sources() {
    let mut definitions = definitions();
    for number in 2..=256 {
        definitions.create_session(session(&format!("s{number}"), "eth0", number)).expect("session");
    }
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions.create_session(session("x", "eth0", 257)).map(drop)),
        refusal(Kind::BadInput, "source eth0 has 256 sessions; it can't have more")
    );
    definitions
        .modify_session(&name("one"), |draft| draft.number = SessionNumber::try_from(300).expect("in range"))
        .expect("a full source can be changed");
    for source in 1..1024 {
        definitions.create_session(session(&format!("e{source}"), &format!("eth{source}"), 1)).expect("session");
    }
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions.create_session(session("x", "eth1024", 1)).map(drop)),
        refusal(Kind::BadInput, "source eth1024: there are 1024 sources; there can't be more")
    );
    definitions
        .modify_session(&name("e1"), |draft| draft.source = interface("eth1024"))
        .expect("the only session of a source takes the place along");
    let vnis: BTreeSet<_> = definitions.sessions().map(|session| session.vni).collect();
    assert_eq!(vnis.len(), definitions.sessions().len(), "random VNIs are used once");
}

#[test]
fn a_source_has_at_most_16384_rules_a_direction() {
    let mut definitions = definitions();
    let (web, half) = (name("web"), name("half"));
    definitions.create_filter(filter("half")).expect("filter");
    for number in 1..=8192 {
        definitions.add_rule(&half, rule(Direction::Ingress, number), None).expect("rule");
    }
    let with_half =
        |session_name: &str, number| SessionDraft { filter: half.clone(), ..session(session_name, "eth0", number) };
    definitions.create_session(with_half("two", 2)).expect("1 and 8192 rules");
    let too_many = |count: usize| {
        refusal(
            Kind::BadInput,
            &format!(
                "source eth0: the filters of its sessions would have {count} ingress rules; there can be at most \
                 16384 a source and direction"
            ),
        )
    };
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions.create_session(with_half("three", 3)).map(drop)),
        too_many(16385)
    );
    definitions.create_session(SessionDraft { source: interface("eth1"), ..with_half("e1", 1) }).expect("eth1");
    definitions.modify_session(&name("one"), |draft| draft.filter = half.clone()).expect("exactly 16384");
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions
            .add_rule(&half, rule(Direction::Ingress, 9000), None)
            .map(drop)),
        too_many(16386)
    );
    definitions.add_rule(&half, rule(Direction::Egress, 9000), None).expect("the other direction");
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions
            .modify_rule(&half, Direction::Egress, rule_number(9000), rule(Direction::Ingress, 9000))
            .map(drop)),
        too_many(16386)
    );
    for number in 101..=16384 + 99 {
        definitions.add_rule(&web, rule(Direction::Ingress, number), None).expect("a filter that nothing uses");
    }
    assert_eq!(
        refused_by(&mut definitions, |definitions| definitions
            .add_rule(&web, rule(Direction::Ingress, 1), None)
            .map(drop)),
        refusal(Kind::BadInput, "filter web has 16384 ingress rules; it can't have more")
    );
}

#[test]
fn ids_and_names_never_change() {
    let mut definitions = definitions();
    let (one, web) = (name("one"), name("web"));
    let session_id = definitions.session("one").expect("session").id;
    let other_id = id::SessionId::random().expect("random");
    definitions
        .modify_session(&one, |draft| {
            draft.id = Some(other_id);
            draft.name = name("another");
        })
        .expect("nothing to refuse");
    assert_eq!(definitions.session("one").expect("by name").id, session_id);
    assert_eq!(definitions.session(&session_id.to_string()).expect("by id").name, one);
    let filter_id = definitions.filter("web").expect("filter").id;
    let modified = definitions.modify_filter(&web, |draft| {
        draft.id = None;
        draft.name = name("another");
        draft.mirror_non_ip = true;
    });
    let modified = modified.expect("nothing to refuse");
    assert_eq!((modified.id, &modified.name, modified.mirror_non_ip), (filter_id, &web, true));
    assert_eq!(modified.rule_count(Direction::Ingress), 1);
}

#[test]
fn a_vni_that_is_unset_is_drawn_again() {
    let mut definitions = definitions();
    let old = definitions.session("one").expect("session").vni;
    let kept = definitions.modify_session(&name("one"), |draft| draft.packet_length = PacketLength::try_from(128).ok());
    assert_eq!(kept.expect("modified").vni, old);
    let drawn = definitions.modify_session(&name("one"), |draft| draft.vni = None).expect("modified").vni;
    assert_ne!(drawn, old);
    let given = Some(Vni::try_from(42).expect("in range"));
    for (number, name) in [(2, "two"), (3, "three")] {
        let session = definitions.create_session(SessionDraft { vni: given, ..session(name, "eth0", number) });
        assert_eq!(Some(session.expect("two sessions may share a VNI that is asked for").vni), given);
    }
}

#[test]
fn sessions_come_in_the_order_of_evaluation() {
    let mut definitions = definitions();
    for (session_name, number) in [("a", 300), ("b", 20), ("c", 2)] {
        definitions.create_session(session(session_name, "eth0", number)).expect("session");
    }
    definitions.create_session(session("d", "eth1", 5)).expect("session");
    let order = |definitions: &Definitions| -> Vec<String> {
        definitions.sessions_of(&interface("eth0")).map(|resolved| resolved.session.name.to_string()).collect()
    };
    assert_eq!(order(&definitions), ["one", "c", "b", "a"]);
    definitions
        .modify_session(&name("one"), |draft| draft.number = SessionNumber::try_from(30).expect("in range"))
        .expect("a free number");
    definitions.delete_session(&name("c")).expect("session");
    assert_eq!(order(&definitions), ["b", "one", "a"]);
    definitions.delete_session(&name("d")).expect("session");
    assert_eq!(definitions.sources().collect::<Vec<_>>(), [&interface("eth0")]);
}

#[test]
fn tags_are_set_on_what_a_name_or_an_id_means() {
    let mut definitions = definitions();
    definitions.create_filter(filter("zeek")).expect("filter");
    let ambiguous = definitions.tagged("zeek").expect_err("a target and a filter");
    let (target_id, filter_id) =
        (definitions.target("zeek").expect("target").id, definitions.filter("zeek").expect("filter").id);
    assert_eq!(ambiguous.kind(), Kind::BadInput);
    assert_eq!(ambiguous.to_string(), "\"zeek\": more than one thing has this name");
    let hint = format!("give the id of the one you mean: target {target_id}, filter {filter_id}");
    assert_eq!(ambiguous.hint_text(), Some(hint.as_str()));
    let found = definitions.tagged(&filter_id.to_string()).expect("the filter");
    assert_eq!(found, Tagged::Filter(name("zeek")));
    let tag: Tag = "team=secops".parse().expect("a tag");
    definitions.tags_mut(&found).expect("the filter").set([tag]).expect("one tag");
    assert_eq!(definitions.filter("zeek").expect("filter").tags.iter().count(), 1);
    let absent = definitions.tagged("absent").expect_err("nothing");
    assert_eq!(absent.to_string(), "\"absent\": there is no such target, filter or session");
    assert_eq!(definitions.tagged("one").expect("the session"), Tagged::Session(name("one")));
}

/// A host with interfaces eth0 and eth1.
struct Fake;

impl Host for Fake {
    fn has_interface(&self, name: &InterfaceName) -> crate::error::Result<bool> {
        Ok(matches!(name.as_str(), "eth0" | "eth1" | "mctap-default"))
    }
}

#[test]
fn interfaces_are_asked_of_the_host() {
    let old = definitions();
    let refused = |change: &dyn Fn(&mut Definitions)| {
        let mut new = old.clone();
        change(&mut new);
        let error = check("change it", &old, &new, &Fake).expect_err("it must be refused");
        (error.kind(), error.to_string())
    };
    assert_eq!(
        refused(&|new| drop(new.create_session(session("two", "eth9", 2)).cloned())),
        refusal(Kind::NotFound, "change it: session two: source eth9: there is no such interface")
    );
    assert_eq!(
        refused(&|new| drop(new.create_target(span("span", "eth9")).cloned())),
        refusal(Kind::NotFound, "change it: target span: interface eth9: there is no such interface")
    );
    assert_eq!(
        refused(&|new| drop(new.create_session(session("two", "mctap-default", 2)).cloned())),
        refusal(
            Kind::BadInput,
            "change it: session two: source mctap-default: it is a helper device of mirrorctl itself"
        )
    );
    // An interface that has gone is no reason to refuse another change.
    let mut gone = old.clone();
    gone.create_session(session("two", "eth9", 2)).expect("session");
    let mut new = gone.clone();
    new.create_session(session("three", "eth1", 2)).expect("session");
    check("change it", &gone, &new, &Fake).expect("only what is new is looked at");
}

/// Whatever can be in definitions.
pub(super) fn any_definitions() -> impl Strategy<Value = Definitions> {
    let text = "[ -~äß→]{0,20}";
    let tags = proptest::collection::vec(("[ -~é]{1,12}", text), 0..4).prop_map(|tags| {
        let mut all = Tags::default();
        all.set(tags.iter().filter_map(|(key, value)| Tag::new(key, value).ok())).expect("few tags");
        all
    });
    let about = (proptest::option::of(text), tags);
    let names = "[a-c\"\\\\ #=']{1,3}";
    let destination = prop_oneof![
        (any::<IpAddr>(), 1u16..).prop_map(|(address, port)| Destination::Address(Endpoint { address, port })),
        "[a-c]".prop_map(|text| Destination::Interface(interface(&text))),
    ];
    let targets = proptest::collection::vec((names, destination, about.clone()), 0..5);
    let ports = || proptest::option::of(any::<(u16, u16)>());
    let cidr = || (any::<IpAddr>(), 0u8..=128);
    let rule = (
        (any::<bool>(), any::<bool>(), 1u64..=32766),
        (proptest::option::of(any::<u8>()), cidr(), cidr()),
        (ports(), ports(), proptest::option::of(text)),
    );
    let rules = proptest::collection::vec(rule, 0..8);
    let filters = proptest::collection::vec((names, any::<(bool, bool)>(), about.clone(), rules), 0..4);
    let sessions = proptest::collection::vec(
        (
            (names, "[a-d]", 1u64..=5),
            (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            (proptest::option::of(0u64..=0xff_ffff), proptest::option::of(1u64..=8500)),
            about,
        ),
        0..8,
    );
    (targets, filters, sessions).prop_map(|(targets, filters, sessions)| {
        let mut all = Definitions::default();
        let about = |(text, tags): (Option<String>, Tags)| (text.and_then(|text| text.parse().ok()), tags);
        for (name, destination, said) in targets {
            let (description, tags) = about(said);
            let Ok(name) = name.parse() else { continue };
            let _ = all.create_target(TargetDraft { id: None, name, destination, description, tags });
        }
        for (filter_name, (network_services_dns, mirror_non_ip), said, rules) in filters {
            let (description, tags) = about(said);
            let Ok(name) = filter_name.parse::<Name>() else { continue };
            let draft = FilterDraft { id: None, name, description, tags, network_services_dns, mirror_non_ip };
            let name = draft.name.clone();
            let _ = all.create_filter(draft);
            for ((ingress, accept, number), (protocol, source, destination), (from, to, description)) in rules {
                let network = |(address, prefix): (IpAddr, u8)| {
                    let longest = if address.is_ipv4() { 32 } else { 128 };
                    ipnet::IpNet::new(address, prefix.min(longest)).expect("a valid prefix").trunc()
                };
                let Ok(addresses) = Addresses::new(network(source), network(destination)) else { continue };
                let ports = |ports: Option<(u16, u16)>| {
                    let ports = ports.and_then(|(a, b)| super::rule::PortRange::new(a.min(b), a.max(b)).ok());
                    ports.filter(|_| protocol.is_some_and(protocol::has_ports))
                };
                let rule = Rule {
                    number: rule_number(number),
                    direction: if ingress { Direction::Ingress } else { Direction::Egress },
                    action: if accept { Action::Accept } else { Action::Reject },
                    protocol,
                    addresses,
                    source_ports: ports(from),
                    destination_ports: ports(to),
                    description,
                };
                let _ = all.add_rule(&name, rule, None);
            }
        }
        let target_names: Vec<Name> = all.targets().map(|target| target.name.clone()).collect();
        let filter_names: Vec<Name> = all.filters().map(|filter| filter.name.clone()).collect();
        if target_names.is_empty() || filter_names.is_empty() {
            return all;
        }
        for ((name, source, number), (target, filter), (vni, length), said) in sessions {
            let (description, tags) = about(said);
            let Ok(name) = name.parse() else { continue };
            let _ = all.create_session(SessionDraft {
                id: None,
                name,
                source: interface(&source),
                target: target.get(&target_names).clone(),
                filter: filter.get(&filter_names).clone(),
                number: SessionNumber::try_from(number).expect("in range"),
                vni: vni.map(|vni| Vni::try_from(vni).expect("in range")),
                packet_length: length.map(|length| PacketLength::try_from(length).expect("in range")),
                description,
                tags,
            });
        }
        all
    })
}

proptest! {
    #[test]
    fn a_file_that_is_written_and_read_says_the_same(definitions in any_definitions()) {
        let text = write(&definitions, Form::Exchanged);
        let document = Document::parse(&text, Form::Exchanged).expect("what is written can be read");
        let same = document.clone().build(&definitions).expect("and built").definitions;
        prop_assert_eq!(&same, &definitions, "names keep their ids");
        let new = document.build(&Definitions::default()).expect("also from nothing").definitions;
        prop_assert_eq!(&text, &write(&new, Form::Exchanged));
        prop_assert!(Difference::between(&definitions, &new).is_empty());
    }

    #[test]
    fn the_store_keeps_ids(definitions in any_definitions()) {
        let text = write(&definitions, Form::Stored);
        let document = Document::parse(&text, Form::Stored).expect("what is written can be read");
        prop_assert_eq!(document.build(&Definitions::default()).expect("and built").definitions, definitions);
    }

    #[test]
    fn a_difference_is_empty_only_between_equals(old in any_definitions(), new in any_definitions()) {
        let difference = Difference::between(&old, &new);
        prop_assert_eq!(difference.is_empty(), write(&old, Form::Exchanged) == write(&new, Form::Exchanged));
        let lines = difference.to_string();
        prop_assert!(lines.lines().all(|line| line.starts_with(['+', '~', '-'])), "{}", lines);
    }
}
