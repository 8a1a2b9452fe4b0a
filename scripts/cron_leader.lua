-- Marks the one server that runs a set of cron jobs: the file <directory>/<item> is there where the item is.
--
--   */5 * * * *  root  [ -e /run/flip-cron/reports ] && /usr/local/bin/reports
--
-- Settings: `directory`, which must be there.
local function path(item, config)
  local name = if type(item) == "table" then item.name else item
  if name:find("/", 1, true) or name:sub(1, 1) == "." then
    error("an item of cron_leader is the name of a file, found " .. name)
  end
  if config.directory == nil then
    error("`directory` is missing in the settings")
  end
  return config.directory .. "/" .. name
end

local function run(command, arguments, options)
  local code, _, err = flip.exec(command, arguments, options)
  if code ~= 0 then
    return false, err
  end
  return true
end

return {
  alive = function(item, config)
    return run("tee", { path(item, config) }, { stdin = flip.node .. "\n" })
  end,
  down = function(item, config)
    return run("rm", { "-f", path(item, config) })
  end,
  -- A crash leaves the file behind, and the next start finds it.
  observe = function(item, config)
    return (pcall(flip.read, path(item, config)))
  end,
}
