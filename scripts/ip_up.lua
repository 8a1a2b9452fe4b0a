-- Puts an address on an interface and announces it, as the native handler of this name does. To use it in the
-- native one's place, copy it under another name: native handlers come first.
--
-- item: an address, with a prefix or without. Settings: `interface`.
local function address_of(item)
  return if type(item) == "table" then item.name else item
end

return {
  alive = function(item, config)
    flip.ip.add(address_of(item), config.interface)
  end,
  announce = function(item, config)
    flip.ip.announce(address_of(item), config.interface)
  end,
}
