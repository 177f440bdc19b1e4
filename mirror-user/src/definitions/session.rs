//! A session: which packets of a source go to which target.

use super::id::SessionId;
use super::text::{Description, Name, Tags};
use crate::model::{InterfaceName, PacketLength, SessionNumber, Vni};

/// A session as definitions hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its name.
    pub name: Name,
    /// The interface whose packets it looks at, in both directions.
    pub source: InterfaceName,
    /// The name of its target.
    pub target: Name,
    /// The name of its filter.
    pub filter: Name,
    /// Its place among the sessions of the source: 1 comes first.
    pub number: SessionNumber,
    /// VXLAN network identifier of its copies.
    pub vni: Vni,
    /// Bytes of a packet that are copied; all when not set.
    pub packet_length: Option<PacketLength>,
    /// For people.
    pub description: Option<Description>,
    /// For people and their programs.
    pub tags: Tags,
}

/// A session as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDraft {
    /// The id of a session that exists already; a new one is drawn when not set.
    pub id: Option<SessionId>,
    /// Its name.
    pub name: Name,
    /// As in [`Session`].
    pub source: InterfaceName,
    /// The name of its target.
    pub target: Name,
    /// The name of its filter.
    pub filter: Name,
    /// As in [`Session`].
    pub number: SessionNumber,
    /// When not set, one is drawn that no session uses.
    pub vni: Option<Vni>,
    /// As in [`Session`].
    pub packet_length: Option<PacketLength>,
    /// For people.
    pub description: Option<Description>,
    /// For people and their programs.
    pub tags: Tags,
}

impl From<&Session> for SessionDraft {
    fn from(session: &Session) -> Self {
        Self {
            id: Some(session.id),
            name: session.name.clone(),
            source: session.source.clone(),
            target: session.target.clone(),
            filter: session.filter.clone(),
            number: session.number,
            vni: Some(session.vni),
            packet_length: session.packet_length,
            description: session.description.clone(),
            tags: session.tags.clone(),
        }
    }
}
