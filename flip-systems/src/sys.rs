//! The few system calls that need `unsafe`, each in a safe function.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{SockAddr, Socket};

/// Sends one whole Ethernet frame out of the interface `index`.
///
/// # Errors
/// Those of sendto(2): ENETDOWN, ENXIO (no such interface), EAGAIN and ENOBUFS (full queue).
pub(crate) fn send_frame(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: `storage` is a zeroed `sockaddr_storage`, at least as large and as aligned as every
    // other socket address, and all bit patterns of `sockaddr_ll` are valid.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let ll = &mut *storage.cast::<libc::sockaddr_ll>();
            ll.sll_family = libc::AF_PACKET as u16;
            ll.sll_ifindex = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.send_to(frame, &address).map(drop)
}

/// Takes one frame that arrived, as far as it fits into `buffer`. Tells its length there and the interface that
/// it came by.
///
/// # Errors
/// Those of recvfrom(2); `WouldBlock` when there is none.
pub(crate) fn receive_frame(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut from: libc::sockaddr_ll = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: buffer and address are live and as long as is said next to them.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut length,
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    Ok((received, u32::try_from(from.sll_ifindex).unwrap_or(0)))
}

/// Asks the kernel to keep ICMP errors of `socket` in its error queue (ip(7), IP_RECVERR).
///
/// # Errors
/// Those of setsockopt(2).
pub(crate) fn enable_error_queue(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as it is borrowed; value and length belong to a
    // live `c_int`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuedError {
    /// Where the datagram that failed was sent to.
    pub(crate) to: Option<SocketAddr>,
    /// Who sent the ICMP error.
    pub(crate) offender: Option<IpAddr>,
    /// SO_EE_ORIGIN_*.
    pub(crate) origin: u8,
    /// ICMP type.
    pub(crate) kind: u8,
    /// ICMP code.
    pub(crate) code: u8,
}

/// Takes one entry from the error queue of `socket`.
///
/// # Errors
/// `WouldBlock` when the queue is empty.
pub(crate) fn take_queued_error(socket: BorrowedFd<'_>) -> io::Result<QueuedError> {
    // The kernel stores `sock_extended_err` and the offender's address: 16 + 28 bytes and a header.
    // u64 gives the alignment that `cmsghdr` needs.
    let mut control = [0u64; 32];
    // The start of the lost datagram comes as data; nobody needs it.
    let mut data = [0u8; 1];
    // SAFETY: all-zero bytes are a valid `sockaddr_storage`, `msghdr` and `sock_extended_err`.
    let mut name: libc::sockaddr_storage = unsafe { zeroed() };
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    loop {
        // SAFETY: every pointer in `message` is to a live local with the length given next to it.
        let result = unsafe {
            libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if result >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let mut queued = QueuedError { to: socket_addr(&name), offender: None, origin: 0, kind: 0, code: 0 };
    // SAFETY: the kernel filled `message`; CMSG_FIRSTHDR and CMSG_NXTHDR stay within msg_controllen.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a complete header.
        let cmsg = unsafe { header.read_unaligned() };
        let is_error = matches!(
            (cmsg.cmsg_level, cmsg.cmsg_type),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // SAFETY: CMSG_LEN only computes.
        let start = unsafe { libc::CMSG_LEN(0) } as usize;
        let length = (cmsg.cmsg_len as usize).saturating_sub(start);
        let extended = size_of::<libc::sock_extended_err>();
        if is_error && length >= extended {
            // SAFETY: `length` bytes follow the header, enough for a `sock_extended_err`.
            let payload = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: as above.
            let error = unsafe { payload.cast::<libc::sock_extended_err>().read_unaligned() };
            queued.origin = error.ee_origin;
            queued.kind = error.ee_type;
            queued.code = error.ee_code;
            // The offender follows as a socket address (SO_EE_OFFENDER).
            // SAFETY: all-zero bytes are a valid `sockaddr_storage`.
            let mut offender: libc::sockaddr_storage = unsafe { zeroed() };
            let rest = (length - extended).min(size_of::<libc::sockaddr_storage>());
            // SAFETY: `rest` bytes are readable behind the error and writable in `offender`.
            unsafe {
                std::ptr::copy_nonoverlapping(payload.add(extended), (&raw mut offender).cast::<u8>(), rest);
            }
            queued.offender = socket_addr(&offender).map(|a| a.ip());
        }
        // SAFETY: `header` came from this `message`.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(queued)
}

fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: a `sockaddr_storage` is large enough and aligned for every address, and any
            // bytes are a valid `sockaddr_in`.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for `sockaddr_in6`.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Schedules the calling thread by SCHED_RR, without passing that on to its children.
///
/// # Errors
/// EPERM without CAP_SYS_NICE or a real-time budget.
pub(crate) fn set_round_robin(priority: i32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `sched_param`.
    let mut parameters: libc::sched_param = unsafe { zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: pid 0 is the calling thread; the pointer is to a live local.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | SCHED_RESET_ON_FORK, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// From linux/sched.h; the libc crate has it for some targets only.
const SCHED_RESET_ON_FORK: libc::c_int = 0x4000_0000;
