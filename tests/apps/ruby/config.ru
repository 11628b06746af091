# frozen_string_literal: true

require_relative "shop"

use CpuTime
run Shop
