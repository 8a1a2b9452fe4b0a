//! What a config may say at most and at least.

use std::ops::RangeInclusive;

/// Largest config file, in bytes.
pub const FILE: usize = 1 << 20;
/// Largest text of everything in a catalog, in bytes.
pub const DOCUMENT: usize = 64 << 20;
/// `version`: one that every JSON reader takes for a whole number.
pub const VERSION: RangeInclusive<u64> = 0..=1 << 53;
/// Servers of a cluster.
pub const SERVERS: usize = 4096;
/// Systems of a cluster.
pub const SYSTEMS: usize = 1000;
/// Items of one system.
pub const ITEMS: usize = 100_000;
/// Addresses of one item: they are put there in one exchange with the kernel.
pub const PARTS: usize = 64;
/// Addresses of all items.
pub const ADDRESSES: usize = 20_000;
/// Routes of one address, and rules.
pub const ROUTES: usize = 16;
/// `table`, `metric` and `priority` of routes and rules.
pub const ROUTE_NUMBER: RangeInclusive<u64> = 1..=u32::MAX as u64;
/// Bytes of one item's text.
pub const ITEM: usize = 255;
/// Characters of a server's id, a system's or a handler's name, and the cluster id.
pub const NAME: usize = 64;
/// Bytes of an interface's name (the kernel's IFNAMSIZ without the final zero).
pub const INTERFACE: usize = 15;
/// Bytes of a passphrase, in `key` or in the key file.
pub const PASSPHRASE: usize = 4096;
/// `port`.
pub const PORT: RangeInclusive<u64> = 1..=65_535;
/// `priority`.
pub const PRIORITY: RangeInclusive<u64> = 0..=u32::MAX as u64;
/// `gossip_interval`, in milliseconds.
pub const GOSSIP_INTERVAL: RangeInclusive<u64> = 5..=60_000;
/// `ping_per_interval`.
pub const PING_PER_INTERVAL: RangeInclusive<u64> = 1..=SERVERS as u64;
/// `ping_timeout`, in milliseconds: below it the pings of a case would be closer than a timer is exact.
pub const PING_TIMEOUT: RangeInclusive<u64> = 8..=600_000;
/// `settle`, in milliseconds; 0 is not to wait.
pub const SETTLE: RangeInclusive<u64> = 0..=60_000;
/// `digest_interval`, in milliseconds.
pub const DIGEST_INTERVAL: RangeInclusive<u64> = 50..=600_000;
/// `hook_timeout`, in milliseconds.
pub const HOOK_TIMEOUT: RangeInclusive<u64> = 10..=3_600_000;
/// `fall` of hooks.
pub const FALL: RangeInclusive<u64> = 1..=1000;
/// `cool_down`, in milliseconds.
pub const COOL_DOWN: RangeInclusive<u64> = 0..=86_400_000;
/// `parallel`.
pub const PARALLEL: RangeInclusive<u64> = 1..=1000;
/// `probe` of an ip system, in milliseconds; 0 is not to ask.
pub const PROBE: RangeInclusive<u64> = 0..=500;
/// `mature`, in milliseconds; 0 is not to wait.
pub const MATURE: RangeInclusive<u64> = 0..=600_000;
/// `announce.count`.
pub const ANNOUNCE_COUNT: RangeInclusive<u64> = 1..=50;
/// `announce.interval`, in milliseconds.
pub const ANNOUNCE_INTERVAL: RangeInclusive<u64> = 10..=60_000;
/// Times in `announce.again_after`.
pub const ANNOUNCE_AGAIN: usize = 8;
/// `announce.again_after`, in milliseconds.
pub const ANNOUNCE_AFTER: RangeInclusive<u64> = 0..=3_600_000;
/// `announce.refresh`, in milliseconds; 0 is never.
pub const ANNOUNCE_REFRESH: RangeInclusive<u64> = 1_000..=86_400_000;
/// `announce_rate`, in frames a second.
pub const ANNOUNCE_RATE: RangeInclusive<u64> = 10..=100_000;
/// `arp_cache`, in seconds; 0 is never.
pub const ARP_CACHE: RangeInclusive<u64> = 0..=86_400;
/// Entries of `notify`.
pub const NOTIFY: usize = 16;
/// Bits of the host part of a network in `notify`: 4,096 hosts.
pub const NOTIFY_BITS: u8 = 12;
/// `lease`, in milliseconds. At least 3 s, because an address needs a whole second of lifetime, the kernel
/// removes it up to 1.25 s late, and the refresh must come before (rule R5). At most a minute: for so long
/// nobody holds what a dead server held.
pub const LEASE: RangeInclusive<u64> = 3_000..=60_000;
/// The seconds of `on_daemon_death`: longer than a daemon takes to be started again, at most a day.
pub const ORPHAN: RangeInclusive<u64> = 10..=86_400;
/// Checks of one system or one item.
pub const CHECKS: usize = 16;
/// Checks of all systems and items.
pub const CHECKS_IN_ALL: usize = 20_000;
/// `interval` of a check, in milliseconds.
pub const CHECK_INTERVAL: RangeInclusive<u64> = 50..=3_600_000;
/// `timeout` of a check, in milliseconds.
pub const CHECK_TIMEOUT: RangeInclusive<u64> = 10..=600_000;
/// `rise` and `fall` of a check.
pub const CHECK_COUNT: RangeInclusive<u64> = 1..=1000;
/// Bytes of a text in a check, such as a query or a path.
pub const CHECK_TEXT: usize = 4096;
/// `lua_memory`, in MiB: an empty state takes half of one.
pub const LUA_MEMORY: RangeInclusive<u64> = 2..=4096;
/// `lua_steps`.
pub const LUA_STEPS: RangeInclusive<u64> = 10_000..=1_000_000_000_000;
/// Plugins of a node.
pub const PLUGINS: usize = 32;
