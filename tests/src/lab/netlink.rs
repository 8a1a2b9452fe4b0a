//! Links, addresses and neighbours by route netlink, asked synchronously.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::RawFd;

use anyhow::{Context, bail};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// The largest datagram that the kernel sends in a dump, and room.
const DATAGRAM: usize = 64 * 1024;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// A socket for requests in the namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> anyhow::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Adds a bridge that forwards from the first moment on and keeps no groups.
    pub(super) fn add_bridge(&mut self, name: &str, mac: Mac) -> anyhow::Result<u32> {
        let settings = vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
        ];
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(settings))];
        let mut message = new_link(name, mac, true);
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.create(RouteNetlinkMessage::NewLink(message))
            .with_context(|| format!("cannot add bridge {name}"))?;
        self.index(name)
    }

    /// Adds a cable from `name`, a port of `bridge`, to `peer` in the namespace `peer_ns`. The peer is
    /// not up yet: the kernel configures it before it connects the two.
    pub(super) fn add_cable(
        &mut self,
        (name, mac): (&str, Mac),
        bridge: u32,
        (peer, peer_mac): (&str, Mac),
        peer_ns: RawFd,
    ) -> anyhow::Result<()> {
        let mut far = new_link(peer, peer_mac, false);
        far.attributes.push(LinkAttribute::NetNsFd(peer_ns));
        let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far)))];
        let mut near = new_link(name, mac, true);
        near.attributes.push(LinkAttribute::LinkInfo(info));
        near.attributes.push(LinkAttribute::Controller(bridge));
        self.create(RouteNetlinkMessage::NewLink(near)).with_context(|| format!("cannot add cable {name}"))
    }

    /// Brings a link up or down.
    pub(super) fn set_up(&mut self, name: &str, up: bool) -> anyhow::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .with_context(|| format!("cannot bring {name} {}", if up { "up" } else { "down" }))?;
        Ok(())
    }

    /// Whether there is a signal on the cable of a link that is up.
    pub(super) fn carrier(&mut self, name: &str) -> anyhow::Result<bool> {
        Ok(self.link(name)?.header.flags.contains(LinkFlags::LowerUp))
    }

    /// Whether a link sends and receives and, as a bridge's port, forwards.
    pub(super) fn ready(&mut self, name: &str) -> anyhow::Result<bool> {
        let attributes = self.link(name)?.attributes;
        let infos = || {
            attributes
                .iter()
                .flat_map(|a| if let LinkAttribute::LinkInfo(infos) = a { &infos[..] } else { &[] })
        };
        let is_port = infos().any(|info| matches!(info, LinkInfo::PortKind(_)));
        let forwards = infos().any(|info| match info {
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                port.contains(&InfoBridgePort::State(BridgePortState::Forwarding))
            }
            _ => false,
        });
        Ok(attributes.contains(&LinkAttribute::OperState(State::Up)) && (forwards || !is_port))
    }

    /// Adds an address, without duplicate address detection.
    pub(super) fn add_address(&mut self, link: &str, ip: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let message = self.address(link, ip, prefix)?;
        self.create(RouteNetlinkMessage::NewAddress(message))
            .with_context(|| format!("cannot add {ip}/{prefix} to {link}"))
    }

    /// Deletes an address.
    pub(super) fn delete_address(&mut self, link: &str, ip: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let message = self.address(link, ip, prefix)?;
        self.ask(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK)
            .with_context(|| format!("cannot delete {ip}/{prefix} from {link}"))?;
        Ok(())
    }

    /// Forgets what the neighbour cache knows of `ip`; `false` when it knew nothing.
    pub(super) fn forget_neighbour(&mut self, link: &str, ip: IpAddr) -> anyhow::Result<bool> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = self.index(link)?;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(ip)));
        match self.ask(RouteNetlinkMessage::DelNeighbour(message), NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if is_errno(&error, libc::ENOENT) => Ok(false),
            Err(error) => Err(error.context(format!("cannot forget neighbour {ip}"))),
        }
    }

    /// All addresses of the namespace.
    pub(super) fn addresses(&mut self) -> anyhow::Result<Vec<IpAddr>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask(request, NLM_F_DUMP).context("cannot list the addresses")?;
        Ok(answers.iter().filter_map(changed_address).map(|(ip, _)| ip).collect())
    }

    fn address(&mut self, link: &str, ip: IpAddr, prefix: u8) -> anyhow::Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = prefix;
        message.header.index = self.index(link)?;
        message.attributes.push(AddressAttribute::Local(ip));
        message.attributes.push(AddressAttribute::Address(ip));
        if ip.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        Ok(message)
    }

    /// The index of a link.
    pub(super) fn index(&mut self, name: &str) -> anyhow::Result<u32> {
        Ok(self.link(name)?.header.index)
    }

    fn link(&mut self, name: &str) -> anyhow::Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers =
            self.ask(RouteNetlinkMessage::GetLink(message), 0).with_context(|| format!("no link {name}"))?;
        match answers.into_iter().next() {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(link),
            Some(_) | None => bail!("no link {name}"),
        }
    }

    fn create(&mut self, request: RouteNetlinkMessage) -> anyhow::Result<()> {
        self.ask(request, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Sends a request and collects the answers: up to the acknowledgement, the end of the dump, or
    /// the one answer of a plain request.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> anyhow::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            for message in messages(&buffer) {
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io().into()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    // Noop and Overrun carry nothing; the type is open for others.
                    _ => {}
                }
            }
            if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }
}

/// The messages of one datagram from the kernel.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    const HEADER: usize = 16;
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = rest.first_chunk().map(|l| u32::from_ne_bytes(*l) as usize)?;
        let message = rest.get(..length).filter(|_| length >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::<RouteNetlinkMessage>::deserialize(message))
    })
    .filter_map(Result::ok)
}

/// The address that a message is about, and whether it is there now.
pub(crate) fn changed_address(message: &RouteNetlinkMessage) -> Option<(IpAddr, bool)> {
    let (address, present) = match message {
        RouteNetlinkMessage::NewAddress(address) => (address, true),
        RouteNetlinkMessage::DelAddress(address) => (address, false),
        _ => return None,
    };
    // IPv4 always has IFA_LOCAL; IPv6 has it on point-to-point links only.
    let local = address.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let other = address.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    Some((local.or(other)?, present))
}

/// True when `error` is the kernel's `errno`.
pub(super) fn is_errno(error: &anyhow::Error, errno: i32) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.raw_os_error() == Some(errno))
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn new_link(name: &str, mac: Mac, up: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    if up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    message
}
