-- Takes an address from an interface, as the native handler of this name does.
--
-- item: an address, with a prefix or without. Settings: `interface`.
return {
  down = function(item, config)
    flip.ip.del(if type(item) == "table" then item.name else item, config.interface)
  end,
}
