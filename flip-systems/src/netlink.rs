//! A route netlink socket that is asked and answers at once.
//!
//! The kernel handles a route request within sendmsg(2): when it returns, the answer lies in the
//! receive queue. Asking synchronously therefore never waits for anything but the kernel's own
//! lock, and saves two turns of the event loop per request, in the middle of a takeover.
//! rtnetlink's `Handle` is not used for a second reason: its requests end with success when the
//! connection dies before the acknowledgement came.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE,
    NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::interfaces::Mac;

/// The largest datagram that the kernel sends in a dump (NLMSG_GOODSIZE and its growth, 32 KiB).
pub(crate) const DATAGRAM: usize = 64 * 1024;

/// How long the kernel may take to put its answer into the queue. It is there already; the limit is
/// for a kernel that drops it for want of memory.
const ANSWER: Duration = Duration::from_secs(1);

/// How often an interrupted dump is asked for again.
const DUMP_TRIES: usize = 5;

/// How many addresses [`Netlink::set_addresses`] takes: their answers fit into the socket's queue many
/// times.
pub(crate) const BATCH: usize = 64;

/// A socket for requests.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A socket for requests of a protocol (`NETLINK_*`), in the network namespace of the calling thread.
///
/// # Errors
/// Those of socket(2): EPROTONOSUPPORT where the kernel has no such protocol.
pub(crate) fn connect(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    // Only an answer from the kernel is an answer.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket2::SockRef::from(&socket).set_read_timeout(Some(ANSWER))?;
    Ok(socket)
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of socket(2).
    pub(crate) fn open() -> io::Result<Self> {
        let socket = connect(NETLINK_ROUTE)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Adds addresses, or changes those that are there to what is `wanted`: at most [`BATCH`], in one
    /// system call. Tells for each how the kernel has it afterwards, or why it was not changed;
    /// `Ok(None)` where the kernel does not say.
    ///
    /// IPv4 answers with the address itself (NLM_F_ECHO). IPv6 does not (inet6_ifa_notify in
    /// net/ipv6/addrconf.c names no receiver), so each is followed by a question.
    ///
    /// # Errors
    /// Those of sendmsg(2) and recvmsg(2): then it is not known what was changed.
    pub(crate) fn set_addresses(
        &mut self,
        wanted: Vec<AddressMessage>,
    ) -> io::Result<Vec<io::Result<Option<AddressMessage>>>> {
        debug_assert!(wanted.len() <= BATCH);
        let mut answers: Vec<_> = wanted.iter().map(|_| Ok(None)).collect();
        let mut bytes = Vec::with_capacity(wanted.len() * 160 + 16);
        let first = self.sequence.wrapping_add(1);
        for message in wanted {
            let question = (message.header.family == AddressFamily::Inet6).then(|| question(&message));
            let set = RouteNetlinkMessage::NewAddress(message);
            let flags = NLM_F_REQUEST | NLM_F_ECHO | NLM_F_CREATE | NLM_F_REPLACE;
            self.push(NetlinkPayload::InnerMessage(set), flags, &mut bytes);
            match question {
                Some(question) => {
                    let get = RouteNetlinkMessage::GetAddress(question);
                    self.push(NetlinkPayload::InnerMessage(get), NLM_F_REQUEST, &mut bytes);
                }
                // Two numbers for each, so that an answer tells its place.
                None => self.sequence = self.sequence.wrapping_add(1),
            }
        }
        // The kernel works off a datagram in order, so this is answered last.
        self.push(NetlinkPayload::Noop, NLM_F_REQUEST | NLM_F_ACK, &mut bytes);
        let last = self.sequence;
        self.socket.send(&bytes, 0)?;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                let sequence = message.header.sequence_number;
                // An error stays one, whatever the question after it brings.
                let answer = answers
                    .get_mut(sequence.wrapping_sub(first) as usize / 2)
                    .filter(|answer| answer.is_ok());
                match message.payload {
                    NetlinkPayload::Error(_) if sequence == last => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        if let Some(answer) = answer {
                            *answer = Err(error.to_io());
                        }
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
                        if let Some(answer) = answer {
                            *answer = Ok(Some(address));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Deletes an address.
    ///
    /// # Errors
    /// The kernel's; EADDRNOTAVAIL when there is no such address.
    pub(crate) fn delete_address(&mut self, message: AddressMessage) -> io::Result<()> {
        self.ask(&RouteNetlinkMessage::DelAddress(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// All addresses of this network namespace.
    ///
    /// # Errors
    /// The kernel's, or `Interrupted` when the list changed during each of several tries.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(&request)?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewAddress(a) = m { Some(a) } else { None })
            .collect())
    }

    /// All links of this network namespace.
    ///
    /// # Errors
    /// As [`Netlink::addresses`].
    pub(crate) fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let answers = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewLink(l) = m { Some(l) } else { None })
            .collect())
    }

    /// Makes a macvlan in bridge mode on the link `parent`, switched off.
    ///
    /// # Errors
    /// The kernel's; EOPNOTSUPP when it has no macvlan.
    pub(crate) fn add_macvlan(&mut self, name: &str, parent: u32, mac: Mac, alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Link(parent),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan), LinkInfo::Data(data)]),
        ];
        self.change(&RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
        // The kernel takes no alias with a link that it makes.
        let mut message = LinkMessage::default();
        message.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::IfAlias(alias.to_owned())];
        self.change(&RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// The kernel's; EADDRINUSE for a macvlan whose hardware address another one on its parent has.
    pub(crate) fn set_up(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.change(&RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Deletes a link; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.change(&RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// Adds a route; one to the same destination, with the same metric, stays.
    ///
    /// # Errors
    /// The kernel's; EEXIST when there is one.
    pub(crate) fn add_route(&mut self, message: RouteMessage) -> io::Result<()> {
        self.change(&RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Deletes a route.
    ///
    /// # Errors
    /// The kernel's; ESRCH when there is none like it.
    pub(crate) fn delete_route(&mut self, message: RouteMessage) -> io::Result<()> {
        self.change(&RouteNetlinkMessage::DelRoute(message), 0)
    }

    /// All routes of this network namespace, of both families and all tables.
    ///
    /// # Errors
    /// As [`Netlink::addresses`].
    pub(crate) fn routes(&mut self) -> io::Result<Vec<RouteMessage>> {
        let answers = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewRoute(r) = m { Some(r) } else { None })
            .collect())
    }

    /// The route by which a packet to `ip` would go that came by a link.
    ///
    /// # Errors
    /// The kernel's; ENETUNREACH when there is none.
    pub(crate) fn route_in(&mut self, ip: Ipv6Addr, index: u32) -> io::Result<Option<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = 128;
        message.attributes =
            vec![RouteAttribute::Destination(RouteAddress::Inet6(ip)), RouteAttribute::Iif(index)];
        let answers = self.ask(&RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST | NLM_F_ACK)?;
        Ok(answers
            .into_iter()
            .find_map(|m| if let RouteNetlinkMessage::NewRoute(r) = m { Some(r) } else { None }))
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// The kernel's; EEXIST when there is one like it.
    pub(crate) fn add_rule(&mut self, message: RuleMessage) -> io::Result<()> {
        self.change(&RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Deletes a rule.
    ///
    /// # Errors
    /// The kernel's; ENOENT when there is none like it.
    pub(crate) fn delete_rule(&mut self, message: RuleMessage) -> io::Result<()> {
        self.change(&RouteNetlinkMessage::DelRule(message), 0)
    }

    /// All rules of this network namespace, of both families.
    ///
    /// # Errors
    /// As [`Netlink::addresses`].
    pub(crate) fn rules(&mut self) -> io::Result<Vec<RuleMessage>> {
        let answers = self.dump(&RouteNetlinkMessage::GetRule(RuleMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewRule(r) = m { Some(r) } else { None })
            .collect())
    }

    fn change(&mut self, request: &RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(request, NLM_F_REQUEST | NLM_F_ACK | flags).map(drop)
    }

    /// The neighbour caches of this network namespace: all entries that say where a neighbour is, in use or not.
    ///
    /// # Errors
    /// As [`Netlink::addresses`].
    pub(crate) fn neighbours(&mut self) -> io::Result<Vec<(u32, IpAddr, Mac)>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let answers = self.dump(&RouteNetlinkMessage::GetNeighbour(request))?;
            found.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour_of(message),
                _ => None,
            }));
        }
        Ok(found)
    }

    fn dump(&mut self, request: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut tries = 1;
        loop {
            match self.ask(request, NLM_F_REQUEST | NLM_F_DUMP) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < DUMP_TRIES => {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    fn ask(&mut self, request: &RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut bytes = Vec::new();
        self.push(NetlinkPayload::InnerMessage(request.clone()), flags, &mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                // An answer to a request that timed out earlier.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Error(error) => {
                        return if error.code.is_some() { Err(error.to_io()) } else { Ok(answers) };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::Error::new(
                            io::ErrorKind::Interrupted,
                            "the list changed while it was read",
                        ));
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    // Noop and Overrun carry nothing; the type is open for others.
                    _ => {}
                }
            }
        }
    }

    /// Appends a request under a number of its own.
    fn push(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>, flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let start = bytes.len();
        bytes.resize((start + message.buffer_len()).next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    /// Takes the next datagram into the buffer.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where a neighbour is, if the kernel knows.
fn neighbour_of(message: &NeighbourMessage) -> Option<(u32, IpAddr, Mac)> {
    let known = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
        _ => None,
    })?;
    known.then_some((message.header.ifindex, ip, Mac(mac)))
}

/// The request that asks for one address alone.
fn question(set: &AddressMessage) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = set.header.clone();
    let named =
        |a: &&AddressAttribute| matches!(a, AddressAttribute::Local(_) | AddressAttribute::Address(_));
    message.attributes = set.attributes.iter().filter(named).cloned().collect();
    message
}

/// The messages of one datagram. One that is not understood is left out.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    const HEADER: usize = 16;
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = rest.first_chunk().map(|l| u32::from_ne_bytes(*l) as usize)?;
        let message = rest.get(..length).filter(|_| length >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::<RouteNetlinkMessage>::deserialize(message))
    })
    .filter_map(|message| {
        message.inspect_err(|error| tracing::debug!(%error, "netlink message not understood")).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_datagrams_end_quietly() {
        for datagram in [&[][..], &[1, 2], &[0; 16], &[255; 64], &[16, 0, 0, 0, 9]] {
            assert_eq!(messages(datagram).count(), 0, "{datagram:?}");
        }
    }

    #[test]
    fn loopback_is_listed() {
        // Listing needs no privilege.
        let mut netlink = Netlink::open().unwrap();
        assert!(!netlink.links().unwrap().is_empty());
        netlink.addresses().unwrap();
        netlink.neighbours().unwrap();
    }
}
