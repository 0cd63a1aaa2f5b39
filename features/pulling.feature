Feature: A model arrives whole or not at all, and what went wrong is said

  Scenario: The fetching is killed half-way
    Given a hub that sends half a model and then nothing
    When I pull a model and kill it half-way
    Then no model is in the cache
    And the next pull begins anew

  Scenario: A server is ended while it fetches
    Given a hub that sends half a model and then nothing
    When I serve a model and end the server half-way
    Then it is gone within 5 seconds
    And no model is in the cache

  Scenario Outline: What went wrong
    Given a hub that <does>
    When I pull a model
    Then it fails, saying "<what>" and what to do
    And no model is in the cache

    Examples:
      | does                        | what                               |
      | is not there                | model hub: not reachable           |
      | sends another file          | model hub: sent a file with SHA-256 |
      | hangs up half-way           | model hub: broke off after         |
      | sends more than a disk has  | no space for the 98362432 bytes    |
