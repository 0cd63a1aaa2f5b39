Feature: What cannot be served is refused in words that help
  Every refusal has a code, a message that says what to do, and a correlation id.

  Background:
    Given a server with the tiny model

  Scenario Outline: Bad requests
    When I send <what>
    Then I am refused with <status> and <code>

    Examples:
      | what                          | status | code           |
      | a task without a model        | 400    | INVALID_PARAMS |
      | a task with a negative length | 400    | INVALID_PARAMS |
      | a task for an unknown model   | 404    | NOT_FOUND      |
      | a task that is not JSON       | 400    | INVALID_PARAMS |
      | a question about no task      | 404    | NOT_FOUND      |
      | an answer longer than context | 400    | INVALID_PARAMS |

  Scenario: The same id twice
    When I submit a task with an id of my own
    And I submit the very same task again
    Then I get the first admission again
    But another task under that id is a conflict

  Scenario: A full queue
    Given a server with the tiny model, one slot and a queue of one
    When I submit tasks until one is refused
    Then I am refused with 429 and ADMISSION_REJECT
    And I am told when to come back

  Scenario: A full queue that drops what has waited longest
    Given a server with the tiny model, one slot, one place to wait and the policy drop-lru
    When I fill the place and another task comes
    Then the task that waited ends with QUEUE_FULL_DROP_LRU by the policy drop-lru
    And the task that came is served

  Scenario: Batch work gives way to interactive work
    Given a server with the tiny model, one slot, one place to wait and the policy shed-low-priority
    When I fill the place with batch work and an interactive task comes
    Then the task that waited ends with SHED_LOW_PRIORITY by the policy shed-low-priority
    And the task that came is served
    And batch work that comes while all is taken is refused with SHED_LOW_PRIORITY
