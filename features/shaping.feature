Feature: An answer has the shape that was asked for
  Whoever needs JSON, one of a few words, or the call of a tool gets exactly that, from any model.

  Background:
    Given a server with the tiny model

  Scenario: JSON by a schema
    When I ask for JSON by a schema
    Then the answer is JSON that the schema allows, and says that it is complete
    And as a stream it is the same text

  Scenario: An answer that is cut short says so
    When I ask for JSON by a schema within 3 tokens
    Then the answer says that it stopped for length

  Scenario Outline: A shape that cannot be followed is refused by its name
    When I ask for a chat completion with <field> <value>
    Then I am refused with 400 for <field>

    Examples:
      | field           | value                                                                                   |
      | response_format | {"type": "json_schema", "json_schema": {"schema": {"type": "array", "uniqueItems": true}}} |
      | guided_regex    | "("                                                                                     |
      | tool_choice     | "required"                                                                              |

  Scenario: A tool that has to be called is called
    When I ask for the call of a tool
    Then the answer is a call of it with arguments that it takes
    And as a stream it is the same call
    And the call and the tool's answer can be part of the next question
