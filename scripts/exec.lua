-- Runs a program of yours where an item arrives or leaves, as the original flip did: its first argument is the
-- item, its second one all settings as JSON. It succeeds with exit code 0; what it writes to standard error is the
-- reason otherwise.
--
-- Settings: `alive_command`, `down_command`: a path, or a list with the path and arguments that come first.
local function run(command, item, config)
  if command == nil then
    return true
  end
  local list = if type(command) == "table" then table.clone(command) else { command }
  local path = table.remove(list, 1)
  table.insert(list, if type(item) == "table" then item.name else item)
  table.insert(list, flip.json.encode(config))
  -- The hook's own time is the limit.
  local code, out, err = flip.exec(path, list, { timeout = 3600000, env = { FLIP_REASON = flip.reason, FLIP_NODE = flip.node } })
  if #out > 0 then
    flip.log.debug(out)
  end
  if code ~= 0 then
    return false, `{path} ended with {code}: {err}`
  end
  return true
end

return {
  alive = function(item, config)
    return run(config.alive_command, item, config)
  end,
  down = function(item, config)
    return run(config.down_command, item, config)
  end,
}
