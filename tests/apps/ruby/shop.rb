# frozen_string_literal: true

# A small shop on Sinatra, as one would write it: password checks with bcrypt in the thread of the request.
#
# Environment: HASH_COST (how many times the usual work a password check is; bcrypt's work doubles from step to step, so
# the next power of two).

require "bcrypt"
require "json"
require "sinatra/base"

# Says in X-Cpu-Ns what CPU time the thread took for the request.
class CpuTime
  def initialize(app)
    @app = app
  end

  def call(env)
    began = now
    status, headers, body = @app.call(env)
    headers["X-Cpu-Ns"] = (now - began).to_s
    [status, headers, body]
  end

  private

  def now
    Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID, :nanosecond)
  end
end

class Shop < Sinatra::Base
  COST = 8 + Math.log2(Integer(ENV.fetch("HASH_COST", "1"))).ceil
  # Checking Eve's takes seconds: 2^15 rounds.
  USERS = {
    "ann" => BCrypt::Password.create("secret", cost: COST).to_s,
    "eve" => "$2a$15$JA.Ej9vI2Swhg2uFNIHBX.DFZghjpF9I.t7hS1IV3zEevcxW1ngZq"
  }.freeze
  CATALOGUE = (1..100).map { |id| { id: id, name: "Article #{id}", price: id * 7919 % 10_007 } }.freeze

  configure do
    set :environment, :production
    disable :logging, :sessions
  end

  before { content_type :json }

  # Checks a password; an unknown user fails before any hashing.
  post "/login" do
    stored = USERS[params["user"]]
    halt 401, { error: "unknown user" }.to_json unless stored
    halt 401, { error: "wrong password" }.to_json unless BCrypt::Password.new(stored) == params["password"]
    { welcome: params["user"] }.to_json
  end

  # The cheapest articles: light.
  get "/browse" do
    { articles: CATALOGUE.sort_by { |article| article[:price] }.first(20) }.to_json
  end

  # Waits for a slow system elsewhere: long, but next to no CPU.
  get "/report" do
    sleep 0.05
    { sales: 42 }.to_json
  end
end
